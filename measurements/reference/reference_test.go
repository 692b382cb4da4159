// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package reference

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/pcrlock"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/predict"
)

// Programs that Debian installs outside of PATH.
const (
	systemdMeasure = "/usr/lib/systemd/systemd-measure"
	systemdPCRLock = "/usr/lib/systemd/systemd-pcrlock"
)

// image is the folder of the image's files, firmware that of OVMF's.
func image(name string) string    { return filepath.Join(os.Getenv("CONSTELLATION_IMAGE"), name) }
func firmware(name string) string { return filepath.Join(os.Getenv("CONSTELLATION_FIRMWARE"), name) }

func prediction(t *testing.T) *measurements.Prediction {
	t.Helper()
	p, err := predict.FromFiles(predict.Files{
		Disk:              image("disk.raw"),
		FirmwareCode:      firmware("OVMF_CODE_4M.fd"),
		FirmwareVariables: firmware("OVMF_VARS_4M.fd"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func uki(t *testing.T) *pe.UKI {
	t.Helper()
	raw, err := os.ReadFile(image("image.efi"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := pe.ParseUKI(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// run executes a program and returns its standard output.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// systemd-measure computes PCR 11 from the UKI's sections.
func TestPCR11LikeSystemdMeasure(t *testing.T) {
	u, dir := uki(t), t.TempDir()
	args := []string{"calculate", "--bank=sha256", "--bank=sha384", "--phase=:"}
	for _, name := range pe.UKISections {
		content, ok := u.Section(name)
		if !ok {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+strings.TrimPrefix(name, ".")+"="+path)
	}
	out, p := run(t, nil, systemdMeasure, args...), prediction(t)
	for _, a := range measurements.Algorithms() {
		if want := fmt.Sprintf("11:%s=%s\n", a, p.PCRs[a][11]); !strings.Contains(out, want) {
			t.Errorf("systemd-measure says\n%swant %s", out, want)
		}
	}
}

// Debian signed the kernel: the signature's message names the digest of the image
// (SpcIndirectDataContent, the first DigestInfo with SHA-256).
func TestKernelDigestLikeItsSignature(t *testing.T) {
	linux, _ := uki(t).Section(".linux")
	info, err := hex.DecodeString("3031300d060960864801650304020105000420")
	if err != nil {
		t.Fatal(err)
	}
	// The content's type comes first, then the content.
	at := bytes.Index(linux, []byte{0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04})
	if at < 0 {
		t.Fatal("the kernel carries no signature")
	}
	j := bytes.Index(linux[at:], info)
	if j < 0 {
		t.Fatal("the signature names no SHA-256 digest")
	}
	signed := linux[at+j+len(info):][:32]
	for _, e := range prediction(t).Events {
		if e.PCR == 4 && e.Component == measurements.ComponentKernel {
			if !bytes.Equal(e.Digests[measurements.SHA256], signed) {
				t.Errorf("predicted %s, Debian signed %x", e.Digests[measurements.SHA256], signed)
			}
			return
		}
	}
	t.Error("no event for the kernel in PCR 4")
}

// tpm2_eventlog reads a log of the predicted events and replays it.
func TestReplayLikeTPM2Tools(t *testing.T) {
	p := prediction(t)
	path := filepath.Join(t.TempDir(), "log")
	log := artifacttest.Log(measurements.Algorithms(), plain(artifacttest.EventsOf(p))...)
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
	_, values, ok := strings.Cut(run(t, nil, "tpm2_eventlog", path), "\npcrs:\n")
	if !ok {
		t.Fatal("tpm2_eventlog replayed nothing")
	}
	line := regexp.MustCompile(`^ {4}(\d+) *: 0x([0-9a-f]+)$`)
	var bank measurements.Algorithm
	checked := 0
	for _, s := range strings.Split(values, "\n") {
		if name, ok := strings.CutSuffix(strings.TrimSpace(s), ":"); ok {
			bank = measurements.Algorithm(name)
			continue
		}
		m := line.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		pcr, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := p.PCRs[bank][pcr]; ok {
			checked++
			if want.String() != m[2] {
				t.Errorf("%s PCR %d: tpm2_eventlog replays to %s, predicted %s", bank, pcr, m[2], want)
			}
		}
	}
	if checked < 2*9 { // PCR 0, 2-7, 9, 11 in two banks
		t.Errorf("only %d values compared:\n%s", checked, values)
	}
}

// plain leaves out what events say about themselves: tools parse it by type, and
// it is not measured.
func plain(events []artifacttest.LogEvent) []artifacttest.LogEvent {
	for i := range events {
		events[i].Type, events[i].Data = 0x0d, nil
	}
	return events
}

// systemd-pcrlock loads the exported component, matches it with the log of a TPM
// that was extended with the predicted events, and predicts the same values.
func TestExportLikeSystemdPCRLock(t *testing.T) {
	p, dir := prediction(t), t.TempDir()
	device := startTPM(t)
	export, err := pcrlock.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	components := filepath.Join(dir, "components")
	log := filepath.Join(dir, "log")
	if err := os.Mkdir(components, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(components, "500-constellation.pcrlock"), export, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, artifacttest.Log(measurements.Algorithms(), plain(artifacttest.EventsOf(p))...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Events {
		if e.PCR != 10 {
			run(t, []string{"TPM2TOOLS_TCTI=" + device}, "tpm2_pcrextend",
				fmt.Sprintf("%d:sha256=%s,sha384=%s", e.PCR, e.Digests[measurements.SHA256], e.Digests[measurements.SHA384]))
		}
	}
	env := []string{"SYSTEMD_TPM2_DEVICE=" + device, "SYSTEMD_MEASURE_LOG_FIRMWARE=" + log, "SYSTEMD_MEASURE_LOG_USERSPACE=/dev/null"}
	args := []string{"--components=" + components, "--location=999", "predict"}
	var want []int
	for pcr := range measurements.PCRCount {
		// The tool predicts nothing for PCRs without events.
		measured := slices.ContainsFunc(p.Events, func(e measurements.Event) bool { return e.PCR == pcr })
		if _, known := p.PCRs[measurements.SHA256][pcr]; known && measured && pcr != 10 {
			want = append(want, pcr)
			args = append(args, "--pcr="+strconv.Itoa(pcr))
		}
	}
	out := run(t, env, systemdPCRLock, args...)
	for _, pcr := range want {
		value := fmt.Sprintf(`(?m)^Results for PCR %d .*\n(?:  sha384: .*\n)?  sha256: %s$`, pcr, p.PCRs[measurements.SHA256][pcr])
		if !regexp.MustCompile(value).MatchString(out) {
			t.Errorf("systemd-pcrlock does not predict %s for PCR %d:\n%s", p.PCRs[measurements.SHA256][pcr], pcr, out)
		}
	}
}

// startTPM runs a software TPM for the length of the test and returns how the
// tools find it.
func startTPM(t *testing.T) string {
	t.Helper()
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run(t, nil, "swtpm_setup", "--tpm2", "--tpmstate", dir, "--pcr-banks", "sha256,sha384")
	socket := filepath.Join(dir, "s")
	pidFile := filepath.Join(dir, "pid")
	// It goes to the background once its socket is open.
	run(t, nil, "swtpm", "socket", "--daemon", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear", "--pid", "file="+pidFile)
	t.Cleanup(func() {
		raw, err := os.ReadFile(pidFile)
		if err != nil {
			t.Error(err)
			return
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Error(err)
			return
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	return "swtpm:path=" + socket
}
