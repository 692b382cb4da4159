// SPDX-License-Identifier: Apache-2.0

// Package apply brings objects into a cluster by server-side apply, and waits until
// what they describe runs.
//
// Apply and Wait can be called again at any time: what is as it should be is not
// changed. Both go on while the API server does not answer yet, until the context
// ends; what cannot become right by waiting is returned at once.
//
// The fields that an object names are ours: whoever changed one loses that change.
// Fields that it does not name are left alone, and so are objects that are no longer
// applied: nothing is deleted.
package apply

// Manager is the name under which the API server records which fields are ours.
const Manager = "constellation"
