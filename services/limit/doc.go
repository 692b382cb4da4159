// SPDX-License-Identifier: Apache-2.0

// Package limit bounds what strangers can make a service do: how often each of them
// may ask, and how many connections one address may hold. What it keeps of them is
// bounded too.
package limit
