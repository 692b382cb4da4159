// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local"
)

// TestOneControlPlane: what images cannot do yet is refused before anything is made.
func TestOneControlPlane(t *testing.T) {
	var errs bytes.Buffer
	code := command.Run(t.Context(), command.New(local.Command(local.Options{})), []string{"local", "up", "--control-planes", "2", "--dir", t.TempDir()}, &errs, &errs)
	if code != command.ExitError || !strings.Contains(errs.String(), "a machine cannot become one more control plane of a cluster yet") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}
