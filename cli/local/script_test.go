// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/runnertest"
	"github.com/constellation-os/constellation/cli/recovery"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// What the machines of a script do, in the environment.
const (
	// behaviourEnv is one of: fails (no machine boots), hangs (they boot for ever), step
	// (the first Init fails at a step).
	behaviourEnv = "LOCAL_TEST_BEHAVIOUR"
	// lackEnv is what the computer lacks.
	lackEnv = "LOCAL_TEST_LACK"
	// imageEnv is what the machines say they booted.
	bootedEnv = "LOCAL_TEST_BOOTED"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"constellation": constellation})
}

// constellation is the command with machines that are none.
func constellation() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	verifier := func(cluster.Trust) (attestation.Verifier, error) {
		return endorsed(attestationtest.Accept(devices()...)), nil
	}
	options := local.Options{
		Runner: &runnertest.Runner{DeviceOf: booted, OnBoot: onBoot, OnStep: onStep},
		Preflight: func(machine.Config, int, string) error {
			if lack := os.Getenv(lackEnv); lack != "" {
				return &machine.MissingToolError{Tool: lack, Package: lack}
			}
			return nil
		},
		Room: func(shape measurements.Machine, machines int, _ string) error {
			if os.Getenv(lackEnv) == "room" {
				return &machine.ResourceError{Resource: "memory", NeedMiB: int64(machines * shape.MemoryMiB), HaveMiB: 1}
			}
			return nil
		},
		ControlPlanes: 3,
		Verifier:      verifier,
	}
	code := command.Run(ctx, command.New(local.Command(options), recovery.Command(recovery.Options{Verifier: verifier})), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// deviceOf is the TPM of a machine.
func deviceOf(name string) *attestationtest.Device {
	return attestationtest.NewDeviceFromSeed("image", sha256.Sum256([]byte(name)))
}

// devices are those of all machines that there may be.
func devices() (out []*attestationtest.Device) {
	for i := range 5 {
		out = append(out, deviceOf(fmt.Sprintf("control-plane-%d", i+1)), deviceOf(fmt.Sprintf("worker-%d", i+1)))
	}
	return out
}

// booted is what a machine proves.
func booted(name string) attestation.Issuer {
	d := *deviceOf(name)
	if image := os.Getenv(bootedEnv); image != "" {
		d.Image = image
	}
	return &d
}

// endorsed has devices known as TPMs are: by what an inventory can list.
func endorsed(p *attestationtest.Policy) attestation.Verifier { return &asTPM{p} }

type asTPM struct{ *attestationtest.Policy }

func (v *asTPM) Verify(ctx context.Context, e *attestation.Evidence, b attestation.Binding, ask attestation.Challenger) (*attestation.Claims, error) {
	claims, err := v.Policy.Verify(ctx, e, b, ask)
	if err == nil {
		claims.Identities[0].Kind = attestation.EndorsementKey
	}
	return claims, err
}

func onBoot(ctx context.Context, name string) error {
	switch os.Getenv(behaviourEnv) {
	case "fails":
		return errors.New("its kernel panicked")
	case "hangs":
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func onStep(call int, step api.Step) error {
	if os.Getenv(behaviourEnv) == "step" && call == 1 && step == api.Step_STEP_DISK {
		return nodetest.Problem(codes.Internal, "the disk is full", &api.Problem{Reason: api.Problem_REASON_STEP, Step: step, Advice: "use a larger one"})
	}
	return nil
}

// The scripts in testdata see the command as people do. They find an image, in $OTHER one
// whose measurements are another's, a bundle, and free ports in $PORT
// and $OTHERPORT.
func TestScripts(t *testing.T) {
	image, other := t.TempDir(), t.TempDir()
	writeImage(t, image, artifacttest.DefaultUKI())
	writeImage(t, other, artifacttest.DefaultUKI().With(".cmdline", []byte("other")))
	// The disk of one, with the measurements of another.
	if err := os.Rename(filepath.Join(image, "measurements.json"), filepath.Join(other, "measurements.json")); err != nil {
		t.Fatal(err)
	}
	writeImage(t, image, artifacttest.DefaultUKI())
	bundleDir := filepath.Join(t.TempDir(), "bundle")
	if _, err := bundle.Create(bundleDir, bundletest.Contents(t)); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			port, err := freePort()
			if err != nil {
				return err
			}
			otherPort, err := freePort()
			env.Setenv("CONSTELLATION_IMAGE", image)
			env.Setenv("OTHER", other)
			env.Setenv("CONSTELLATION_FIRMWARE", image)
			env.Setenv("CONSTELLATION_BUNDLE", bundleDir)
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("OTHERPORT", strconv.Itoa(otherPort))
			// A script that fails leaves nothing running.
			env.Defer(func() { endSupervisors(env.WorkDir) })
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"busy": busy, "waitfor": waitFor, "gone": gone, "killsupervisor": killSupervisor,
		},
	})
}

func writeImage(t *testing.T, dir string, uki artifacttest.UKISections) {
	t.Helper()
	for name, content := range map[string][]byte{
		"disk.raw":        artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: uki.Encode()}),
		"OVMF_CODE_4M.fd": artifacttest.FirmwareCode(), "OVMF_VARS_4M.fd": artifacttest.FirmwareVariables(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := predict.FromFiles(predict.Files{
		Disk: filepath.Join(dir, "disk.raw"), FirmwareCode: filepath.Join(dir, "OVMF_CODE_4M.fd"), FirmwareVariables: filepath.Join(dir, "OVMF_VARS_4M.fd"),
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "measurements.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// supervisors are the processes of clusters below a folder.
func supervisors(dir string) (out []int) {
	files, _ := filepath.Glob(filepath.Join(dir, "*", "supervisor.pid"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && syscall.Kill(pid, 0) == nil {
			out = append(out, pid)
		}
	}
	return out
}

func endSupervisors(dir string) {
	for _, pid := range supervisors(dir) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// killSupervisor kills the process that has the cluster, as a crash would.
func killSupervisor(ts *testscript.TestScript, _ bool, _ []string) {
	pids := supervisors(ts.Getenv("WORK"))
	if len(pids) != 1 {
		ts.Fatalf("%d supervisors run", len(pids))
	}
	syscall.Kill(pids[0], syscall.SIGKILL)
	for syscall.Kill(pids[0], 0) == nil && !isZombie(pids[0]) {
		time.Sleep(time.Millisecond)
	}
}

// isZombie says whether a process has ended, with all of its threads: the last of them lets
// go of what it had locked.
func isZombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	threads, threadsErr := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err != nil || threadsErr != nil || strings.Contains(string(text), ") Z ") && len(threads) == 1
}

// busy takes a port until the script ends.
func busy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp4", "127.0.0.1:"+args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go http.Serve(l, nil)
}

// waitFor waits until a file has some text.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	for range 2000 {
		if text, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && strings.Contains(string(text), args[1]) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	ts.Fatalf("%s never has %q", args[0], args[1])
}

// gone fails if anything of a cluster is there.
func gone(ts *testscript.TestScript, _ bool, args []string) {
	if pids := supervisors(ts.Getenv("WORK")); len(pids) > 0 {
		ts.Fatalf("processes %v run", pids)
	}
	if _, err := os.Lstat(ts.MkAbs(args[0])); err == nil {
		ts.Fatalf("%s is there", args[0])
	}
}
