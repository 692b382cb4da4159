// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/supervisor"
)

// Environment variables that say where the command is, and where it finds the bundle.
const (
	commandEnv      = "CONSTELLATION_COMMAND"
	localClusterEnv = "CONSTELLATION_BUNDLE"
	pageEnv         = "CONSTELLATION_GETTING_STARTED"
)

// Bounds on two busy processors without KVM.
const (
	upDeadline  = 20 * time.Minute
	bootTimeout = 2 * time.Minute
)

// administrator runs the command as people do, in a folder of its own.
type administrator struct {
	home string // where it works
	dir  string // the cluster's folder
	// deadline of a command
	deadline time.Duration
}

// bazel stands for tools/bazel.
const bazel = `#!/bin/bash
[ "$1 $2 $3" = "run //cli/constellation:local --" ] || { echo "no such target: $*" >&2; exit 2; }
shift 3
exec constellation local "$@"
`

func newAdministrator(t *testing.T) *administrator {
	t.Helper()
	for _, name := range []string{commandEnv, localClusterEnv, kubectlEnv, pageEnv} {
		if err := resolve(name); err != nil {
			t.Fatal(err)
		}
	}
	a := &administrator{home: t.TempDir(), deadline: upDeadline}
	a.dir = filepath.Join(a.home, "constellation-local")
	err := errors.Join(
		os.Mkdir(filepath.Join(a.home, "bin"), 0o700), os.Mkdir(filepath.Join(a.home, "tools"), 0o700),
		os.Symlink(os.Getenv(commandEnv), filepath.Join(a.home, "bin", "constellation")),
		os.Symlink(os.Getenv(kubectlEnv), filepath.Join(a.home, "bin", "kubectl")),
		os.WriteFile(filepath.Join(a.home, "tools", "bazel"), []byte(bazel), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			consoles, _ := filepath.Glob(filepath.Join(a.dir, "machines", "*", "console.log"))
			for _, path := range consoles {
				text, _ := os.ReadFile(path)
				t.Logf("the end of %s:\n%s", path, text[max(0, len(text)-8<<10):])
			}
		}
		a.run(t, "local", "down")
	})
	return a
}

// run runs one command and returns its output and exit code.
func (a *administrator) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), a.deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(commandEnv), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Dir = a.home
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that succeeds.
func (a *administrator) must(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	stdout, stderr, code := a.run(t, args...)
	if code != 0 {
		t.Fatalf("%v ended with %d\n%s\n%s", args, code, stdout, stderr)
	}
	return stdout, stderr
}

// TestGettingStarted does what docs/getting-started.md says, command by command as it is
// printed there: a cluster from nothing, looked at, and removed without a trace. Before
// the end it is asked for again, and has its power cut.
func TestGettingStarted(t *testing.T) {
	a := newAdministrator(t)
	page, err := os.ReadFile(os.Getenv(pageEnv))
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(page), "\n## When something is not as it should be")
	blocks := regexp.MustCompile("(?s)\n```sh\n(.*?)\n```\n").FindAllStringSubmatch(text, -1)
	if !found || len(blocks) != 4 {
		t.Fatalf("%d blocks of commands, want 4: make, look with kubectl, look with our commands, remove", len(blocks))
	}
	start := time.Now()
	a.shell(t, blocks[0][1])
	t.Logf("%6.1f s  up", time.Since(start).Seconds())
	wantPods(t, a.shell(t, blocks[1][1]))

	stdout, stderr, code := a.run(t, "local", "status", "--output", "json")
	var s supervisor.Status
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || code != 0 || len(s.Machines) != 1 {
		t.Fatalf("local status ended with %d, %v\n%s\n%s", code, err, stdout, stderr)
	}
	looked := a.shell(t, strings.ReplaceAll(blocks[2][1], "PORT", strconv.Itoa(int(s.Machines[0].Port))))
	for _, want := range []string{"control-plane-1  control-plane", "BdsDxe: starting", "it belongs to this cluster already", "it is member"} {
		if !strings.Contains(looked, want) {
			t.Errorf("%q is missing", want)
		}
	}

	if _, stderr, code := a.run(t, "local", "up"); code != 0 || !strings.Contains(stderr, "is up already: nothing to do") {
		t.Errorf("up twice ended with %d\n%s", code, stderr)
	}

	// A power cut. Whoever has the master secret makes it go on.
	for _, verb := range []string{"stop", "start"} {
		if _, stderr, code := a.run(t, "local", verb, "control-plane-1"); code != 0 {
			t.Fatalf("%s ended with %d\n%s", verb, code, stderr)
		}
	}
	a.reinitialise(t, s.Machines[0].Port)
	wantPods(t, a.shell(t, blocks[1][1]))

	a.shell(t, blocks[3][1])
	a.wantNothing(t)
}

// wantPods wants what kubectl prints to say that the node is ready and every pod runs.
func wantPods(t *testing.T, text string) {
	t.Helper()
	node, pod := regexp.MustCompile(`^node/control-plane-1 +Ready `), regexp.MustCompile(`^\S+ +pod/\S+ +([0-9]+)/([0-9]+) +Running `)
	nodes, pods := 0, 0
	for line := range strings.Lines(text) {
		m := pod.FindStringSubmatch(line)
		switch {
		case node.MatchString(line):
			nodes++
		case m != nil && m[1] == m[2]:
			pods++
		case strings.TrimSpace(line) != "" && !strings.Contains(line, "NAME"):
			t.Errorf("not ready: %s", line)
		}
	}
	if nodes != 1 || pods < 8 {
		t.Errorf("%d nodes and %d pods", nodes, pods)
	}
}

// shell runs what the page prints, in the administrator's folder, and returns what it
// prints. Bazel, which cannot be run in a test of its own, is a script that runs the
// command that Bazel has built.
func (a *administrator) shell(t *testing.T, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), upDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = a.home
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(a.home, "bin")+":/usr/bin:/bin", "HOME="+a.home)
	out, err := cmd.CombinedOutput()
	t.Logf("$ %s\n%s", text, out[max(0, len(out)-16<<10):])
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// wantNothing wants neither a file nor a process to be left.
func (a *administrator) wantNothing(t *testing.T) {
	t.Helper()
	if _, err := os.Lstat(a.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	if err := childless(); err != nil {
		t.Error(err)
	}
}

// TestKilled: whoever kills the command and the process in the background with SIGKILL
// leaves no machine running, and nothing that down does not remove.
func TestKilled(t *testing.T) {
	a := newAdministrator(t)
	cmd := exec.Command(os.Getenv(commandEnv), "local", "up")
	cmd.Dir = a.home
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(a.dir, "machines", "control-plane-1", "console.log")
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if text, err := os.ReadFile(console); err == nil && bytes.Contains(text, []byte("BdsDxe: starting")) {
			break
		}
		if time.Since(began) > bootTimeout {
			t.Fatal("the machine does not boot")
		}
	}
	text, err := os.ReadFile(filepath.Join(a.dir, "supervisor.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Process.Kill(), syscall.Kill(pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if err := childless(); err != nil {
		t.Error(err)
	}
	if _, stderr, code := a.run(t, "local", "status"); code != 2 || !strings.Contains(stderr, "is not running") {
		t.Errorf("status ended with %d\n%s", code, stderr)
	}
	if _, stderr, code := a.run(t, "local", "down"); code != 0 {
		t.Errorf("down ended with %d\n%s", code, stderr)
	}
	a.wantNothing(t)
}

// files are the flags that name the cluster's files.
func (a *administrator) files() []string {
	return []string{"--config", filepath.Join(a.dir, "constellation.yaml"), "--master-secret", filepath.Join(a.dir, "constellation-master-secret.json")}
}

// expectMember verifies the node again: it is one of this cluster.
func (a *administrator) expectMember(t *testing.T, port uint16) {
	t.Helper()
	node := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	stdout, stderr, code := a.run(t, append([]string{"status", "--node", node}, a.files()...)...)
	if code != 0 || !strings.Contains(stdout, "it belongs to this cluster already") || !strings.Contains(stdout, "it is member") {
		t.Errorf("status ended with %d\n%s\n%s", code, stdout, stderr)
	}
}

// reinitialise sends the same Init again.
func (a *administrator) reinitialise(t *testing.T, port uint16) {
	t.Helper()
	args := append([]string{"init", "--node", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), "--node-name", "control-plane-1",
		"--init-secret", filepath.Join(a.dir, "constellation-init-secret"), "--kubeconfig", filepath.Join(a.dir, "constellation-kubeconfig"),
		"--server", net.JoinHostPort("127.0.0.1", strconv.Itoa(supervisor.APIServerPort))}, a.files()...)
	if stdout, stderr, code := a.run(t, args...); code != 0 {
		t.Fatalf("init ended with %d\n%s\n%s", code, stdout, stderr)
	}
	a.expectMember(t, port)
}
