// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package imagetest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/image/deb"
)

var update = flag.Bool("update", false, "write the golden file of the units' exposure")

// ownUnits are the services of this repository.
var ownUnits = []string{
	"bootstrapper.service", "containerd.service", "diskmapper.service", "kubeadm-files.service", "kubeadm-finish.service", "kubelet.service",
	"measurementreader.service", "secretsprovider.service",
}

const (
	libraries = "usr/lib/x86_64-linux-gnu"
	analyzer  = "usr/bin/systemd-analyze"
)

// TestExposureOfUnits records how exposed systemd-analyze finds each of our services, from 0.0 to 10.0: a change of
// a unit's sandbox has to be seen by a reviewer. The analyzer is that of the image's own systemd package.
func TestExposureOfUnits(t *testing.T) {
	root := t.TempDir()
	extract(t, root)
	addAnalyzer(t, root)
	var report strings.Builder
	report.WriteString("# What systemd-analyze security --offline=true says of the exposure of our services, from 0.0 to 10.0.\n" +
		"# Renew with: tools/bazel run //image/imagetest:imagetest_test -- -test.run=TestExposureOfUnits -update\n")
	for _, unit := range ownUnits {
		fmt.Fprintf(&report, "%s %s\n", unit, exposure(t, root, unit))
	}
	golden := os.Getenv("GOLDEN_EXPOSURE")
	if *update {
		target := filepath.Join(os.Getenv("BUILD_WORKSPACE_DIRECTORY"), golden)
		if err := os.WriteFile(target, []byte(report.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if report.String() != string(want) {
		t.Errorf("exposure is\n%s\nthe golden file says\n%s", report.String(), want)
	}
}

func addAnalyzer(t *testing.T, root string) {
	t.Helper()
	archive, err := os.Open(os.Getenv("SYSTEMD_PACKAGE"))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	found := false
	if err := deb.Read(archive, func(p string) bool { return p == analyzer }, func(f deb.File) error {
		found = true
		return os.WriteFile(filepath.Join(root, f.Path), f.Content, 0o755)
	}); err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Fatalf("the package has no %s", analyzer)
	}
}

// exposure runs the analyzer with the root's own loader and libraries.
func exposure(t *testing.T, root, unit string) string {
	t.Helper()
	command := exec.Command(filepath.Join(root, libraries, "ld-linux-x86-64.so.2"),
		"--library-path", filepath.Join(root, libraries)+":"+filepath.Join(root, libraries, "systemd"),
		filepath.Join(root, analyzer), "security", "--offline=true", "--no-pager", "--root="+root, unit)
	command.Env = []string{"LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0"}
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze security %s: %v\n%s", unit, err, output)
	}
	// The last line is: -> Overall exposure level for NAME: 9.6 UNSAFE
	_, verdict, ok := strings.Cut(string(output), "Overall exposure level for "+unit+": ")
	if !ok {
		t.Fatalf("systemd-analyze says nothing of %s:\n%s", unit, output)
	}
	return strings.Fields(verdict)[0]
}

// TestNothingWaitsForTheStateDisk: no unit that starts at boot wants a folder that is on the state disk, which is opened
// later by such units. Some settings want one without naming it.
func TestNothingWaitsForTheStateDisk(t *testing.T) {
	tree := readRoot(t)
	const units = "usr/lib/systemd/system/"
	settings := map[string]string{}
	started := map[string]bool{"default.target": true}
	for p, node := range tree {
		name, ok := strings.CutPrefix(p, units)
		if !ok {
			continue
		}
		folder, file, below := strings.Cut(name, "/")
		switch {
		case !below:
			settings[name] = string(node.Content) + settings[name]
		case strings.HasSuffix(folder, ".d"):
			unit := strings.TrimSuffix(folder, ".d")
			settings[unit] += string(node.Content)
		default:
			started[file] = true // a link below TARGET.wants
		}
	}
	if len(started) < 10 {
		t.Fatalf("only %d units start at boot", len(started))
	}
	for unit := range started {
		if wants := wantsStateDisk(settings[unit]); wants != "" {
			t.Errorf("%s has %s", unit, wants)
		}
	}
	// Units that bring others along are looked at too.
	for _, unit := range []string{"basic.target", "sysinit.target", "multi-user.target", "local-fs.target"} {
		if wants := wantsStateDisk(settings[unit]); wants != "" {
			t.Errorf("%s has %s", unit, wants)
		}
	}
}

// wantsStateDisk returns the setting by which a unit depends on the state disk.
func wantsStateDisk(unit string) string {
	private := ""
	for line := range strings.Lines(unit) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "PrivateTmp":
			private = value
		case "StateDirectory", "CacheDirectory", "LogsDirectory":
			return line
		case "RequiresMountsFor", "WantsMountsFor":
			for path := range strings.FieldsSeq(value) {
				for _, place := range []string{"/state", "/var", "/opt", "/etc/kubernetes", "/etc/cni"} {
					if path == place || strings.HasPrefix(path, place+"/") {
						return line
					}
				}
			}
		case "Wants", "Requires", "BindsTo", "Upholds":
			for name := range strings.FieldsSeq(value) {
				switch name {
				case "state-disk.target", "state-disk-folders.service",
					"state.mount", "var.mount", "opt.mount", "etc-kubernetes.mount", "etc-cni.mount":
					return line
				}
			}
		}
	}
	if private != "" && private != "no" {
		return "PrivateTmp=" + private
	}
	return ""
}
