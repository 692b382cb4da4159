// SPDX-License-Identifier: Apache-2.0

package mode

import (
	"io"
	"os"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// maxConfig is the size of a configuration file in bytes.
const maxConfig = 256 << 10

// ReadFile reads a configuration file into a structure, strictly. Errors have
// [keys.ClassInvalid] or wrap what the system says.
func ReadFile(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return err
	}
	if len(data) > maxConfig {
		return keys.Errorf(keys.ClassInvalid, "%s: more than %d bytes", path, maxConfig)
	}
	if err := strictjson.Decode(data, into); err != nil {
		return keys.Errorf(keys.ClassInvalid, "%s: %w", path, err)
	}
	return nil
}
