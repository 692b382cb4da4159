// SPDX-License-Identifier: Apache-2.0

package secretsprovider

import (
	"os"
	"strings"
	"testing"
)

// TestUnitNeverGivesUp: with systemd's own limit, five starts in ten seconds, a
// provider that is restarted every second is given up on before the master secret
// has come.
func TestUnitNeverGivesUp(t *testing.T) {
	unit, err := os.ReadFile("secretsprovider.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Restart=always", "StartLimitIntervalSec=0"} {
		if !strings.Contains(string(unit), "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}
