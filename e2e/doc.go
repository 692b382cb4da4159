// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the whole system on virtual machines with real firmware and
// real (software) TPMs. Its tests carry the build tag e2e: they need built
// images, QEMU and swtpm, which Bazel provides:
//
//	tools/bazel test //e2e:boot_test    what every change must pass, a few minutes
//	tools/bazel test //e2e:campaign     every case
//	tools/bazel test //e2e:statedisk_test
//	                                    the state disk over several boots, of an image
//	                                    that does what the test says (package driver)
//
// Without Bazel: CONSTELLATION_IMAGE and CONSTELLATION_FIRMWARE name the folders
// of the image and of OVMF, then go test -tags e2e ./e2e [-args -campaign].
package e2e
