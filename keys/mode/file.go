// SPDX-License-Identifier: Apache-2.0

package mode

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	"github.com/constellation-os/constellation/keys"
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
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return keys.Errorf(keys.ClassInvalid, "%s: %w", path, err)
	}
	if len(bytes.TrimSpace(data[dec.InputOffset():])) != 0 {
		return keys.Errorf(keys.ClassInvalid, "%s: something follows the configuration", path)
	}
	return nil
}
