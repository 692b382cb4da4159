// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package evidence_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/attestation/evidencejson"
	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

var update = flag.Bool("update", false, "record the software TPMs' answers anew")

// predicted is what a machine measures that boots an image with a command line.
func predicted(t *testing.T, cmdline string) *measurements.Prediction {
	t.Helper()
	uki := artifacttest.DefaultUKI()
	if cmdline != "" {
		uki = uki.With(".cmdline", []byte(cmdline))
	}
	disk := artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: uki.Encode()})
	p, err := predict.Predict(predict.Input{
		Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)), Machine: measurements.QEMU(),
		FirmwareCode: artifacttest.FirmwareCode(), FirmwareVariables: artifacttest.FirmwareVariables(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const evil = "roothash=00 constellation.flavour=test"

// boot extends the registers of the TPM at socket as a machine's boot would, and
// writes the event log.
func boot(t *testing.T, socket string, p *measurements.Prediction, log string) {
	t.Helper()
	device, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	write(t, log, swtpmtest.Boot(t, device, p))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writePrediction(t *testing.T, path string, p *measurements.Prediction) {
	t.Helper()
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, data)
}

// room is a folder with the files of two machines by one authority that booted the
// image of measurements.json, and of a third that booted another.
type room struct {
	dir     string
	sockets map[string]string
}

const (
	nonce      = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
	otherNonce = "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5"
)

func newRoom(t *testing.T) *room {
	t.Helper()
	r, ca := &room{t.TempDir(), map[string]string{}}, swtpmtest.NewAuthority(t)
	for name, cmdline := range map[string]string{"one": "", "two": "", "evil": evil} {
		r.sockets[name] = swtpmtest.Serve(t, ca)
		boot(t, r.sockets[name], predicted(t, cmdline), r.file("log-"+name))
	}
	writePrediction(t, r.file("measurements.json"), predicted(t, ""))
	write(t, r.file("ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate(t)}))
	return r
}

func (r *room) file(name string) string { return filepath.Join(r.dir, name) }

func TestSoftwareTPM(t *testing.T) {
	r := newRoom(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/swtpm",
		Setup: func(env *testscript.Env) error {
			for name, socket := range r.sockets {
				env.Setenv(strings.ToUpper(name), socket)
			}
			env.Setenv("NONCE", nonce)
			env.Setenv("OTHER_NONCE", otherNonce)
			return os.CopyFS(env.WorkDir, os.DirFS(r.dir))
		},
	})
}

// TestFullTPM: others may have left no room for the keys.
func TestFullTPM(t *testing.T) {
	socket := swtpmtest.Serve(t, swtpmtest.NewAuthority(t))
	device, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	for err == nil {
		_, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(device)
	}
	if !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	code := command.Run(t.Context(), command.New(evidence.Command()), []string{"evidence", "collect", "--nonce", nonce, "--device", socket}, io.Discard, &errs)
	if code != command.ExitError || !strings.Contains(errs.String(), "others have left keys in this TPM") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

// TestRecord renews what the tests without a TPM judge.
func TestRecord(t *testing.T) {
	if !*update {
		t.Skip("without -update")
	}
	if err := os.RemoveAll(recorded); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(recorded, 0o755); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(recorded, name) }
	good := predicted(t, "")
	write(t, in("nonce"), []byte(nonce))
	writePrediction(t, in("measurements.json"), good)
	writePrediction(t, in("other.json"), predicted(t, evil))
	ca := swtpmtest.NewAuthority(t)
	for _, name := range []string{"", "two"} {
		socket, log := swtpmtest.Serve(t, ca), filepath.Join(t.TempDir(), "log")
		boot(t, socket, good, log)
		file := func(what string) string { return in(strings.TrimPrefix(name+"-"+what, "-")) }
		evidence := in("evidence.json")
		if name != "" {
			evidence = in(name + ".json")
		}
		constellation(t, "evidence", "collect", "--nonce", nonce, "--device", socket, "--event-log", log, "--out", evidence)
		constellation(t, "evidence", "challenge", evidence, "--nonce", nonce, "--secret", file("secret.json"), "--out", file("challenge"))
		constellation(t, "evidence", "respond", file("challenge"), "--nonce", nonce, "--device", socket, "--out", file("response"))
		if name == "" {
			write(t, in("machines.txt"), fmt.Appendf(nil, "node-1 worker %s\n", identity(t, evidence)))
		}
	}
}

func constellation(t *testing.T, args ...string) {
	t.Helper()
	if code := run(args); code != 0 {
		t.Fatalf("constellation %s: exit code %d", strings.Join(args, " "), code)
	}
}

func identity(t *testing.T, path string) string {
	t.Helper()
	e, err := evidencejson.Parse(read(t, path))
	if err != nil {
		t.Fatal(err)
	}
	id, err := tpm.Subject(e)
	if err != nil {
		t.Fatal(err)
	}
	return id.Value.String()
}
