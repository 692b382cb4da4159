// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package rebuild builds the image a second time and compares every artifact with the first build's.
//
// The first build is the one that Bazel hands to this test. The second one is made from a copy of the source and shares
// nothing with the first but fetched inputs, which are pinned by their hashes. Different are: the path and file system
// of the source, the order in which its directories list their files, the files' dates (a year ahead), the
// output folder, the user, the umask, the time zone, the locale, the host name, the number of processors and of jobs,
// and the moment.
//
// The clock is not set a year ahead: one cannot for the programs concerned, which are linked statically or
// protected from preloaded libraries. A program that puts the time into an artifact still shows, because the builds are
// minutes apart, and package hermetic of the linters forbids our own programs to read it at all.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/image/reproducible"
)

// timeLimit ends a build that hangs. On two idle processors it takes about a tenth of that.
const timeLimit = 50 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(launchVariable) != "" {
		fmt.Fprintln(os.Stderr, "launch:", launch(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestSecondBuildIsIdentical(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeLimit)
	defer cancel()

	first := filepath.Join(runfiles(), "image", "qemu")
	source := copySource(t, workspace(t))
	started := time.Now()
	build(ctx, t, source, outputBase(t, first))
	t.Logf("the second build took %s", time.Since(started).Round(time.Second))

	second := sameNames(t, first, filepath.Join(source, "bazel-bin", "image", "qemu"))
	differences, err := reproducible.Compare(first, second)
	if err != nil {
		t.Fatal(err)
	}
	for _, difference := range differences {
		t.Errorf("%s", difference)
	}
}

// runfiles is where Bazel puts the first build's artifacts and a file that tells where the source is.
func runfiles() string {
	return filepath.Join(os.Getenv("TEST_SRCDIR"), os.Getenv("TEST_WORKSPACE"))
}

// workspace returns the source tree that the first build was made from.
func workspace(t *testing.T) string {
	t.Helper()
	marker, err := filepath.EvalSymlinks(filepath.Join(runfiles(), "MODULE.bazel"))
	if err != nil {
		t.Fatalf("find the source tree: %v", err)
	}
	return filepath.Dir(marker)
}

// outputBase returns the folder that Bazel keeps everything of the first build in.
func outputBase(t *testing.T, artifacts string) string {
	t.Helper()
	disk, err := filepath.EvalSymlinks(filepath.Join(artifacts, "disk.raw"))
	if err != nil {
		t.Fatalf("find the first build: %v", err)
	}
	base, _, ok := strings.Cut(disk, "/execroot/")
	if !ok {
		t.Fatalf("%s is not in an output base of Bazel", disk)
	}
	return base
}

// sameNames returns a folder with those files of build that artifacts has too: beside the artifacts, a build has
// intermediate files.
func sameNames(t *testing.T, artifacts, build string) string {
	t.Helper()
	entries, err := os.ReadDir(artifacts)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, entry := range entries {
		file, err := filepath.EvalSymlinks(filepath.Join(build, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(file, filepath.Join(folder, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// build makes the second build in source, under its circumstances.
func build(ctx context.Context, t *testing.T, source, firstBase string) {
	t.Helper()
	// Its length differs from the first one's too.
	scratch := temporary(t, "/var/tmp")
	home := filepath.Join(scratch, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	arguments := []string{
		filepath.Join(source, "tools", "bazel"),
		// Without a server, nothing is left running.
		"--batch",
		"--nohome_rc",
		"--output_user_root=" + filepath.Join(scratch, "output"),
		"build", "//image:qemu",
		"--disk_cache=",
		"--jobs=1",
		// The linters have looked at this source already.
		"--norun_validations",
		"--color=no", "--curses=no", "--show_progress_rate_limit=20",
	}
	if cache := repositoryCache(firstBase); cache != "" {
		arguments = append(arguments, "--repository_cache="+cache)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(ctx, self, arguments...)
	command.Dir = source
	command.Env = environment(home, firstBase)
	// Bazel's own way of telling is better than a test log of thousands of lines.
	log, err := os.Create(filepath.Join(scratch, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	isolate(command)
	// At once: who runs this test may wait a few seconds only, and everything goes anyway.
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer endOrphans()
	if err := command.Run(); err != nil {
		output, readErr := os.ReadFile(log.Name())
		t.Fatalf("second build: %v\n%s", errors.Join(err, context.Cause(ctx), readErr), tail(output))
	}
}

// environment is what the second build sees of the user's settings.
func environment(home, firstBase string) []string {
	env := []string{
		launchVariable + "=1",
		"HOME=" + home,
		"USER=somebody",
		"LOGNAME=somebody",
		"PATH=" + os.Getenv("PATH"),
		"TZ=ELSEWHERE-12:45",
		"LANG=tr_TR.UTF-8",
		"LC_ALL=tr_TR.UTF-8",
		"SOURCE_DATE_EPOCH=1900000000",
		"GOPROXY=" + goProxy(firstBase),
	}
	for _, name := range []string{
		"BAZEL_REAL", "CONSTELLATION_TOOLBOX", "DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR", "GONOSUMDB", "GOSUMDB",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy",
	} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// goProxy names the Go modules that the first build has fetched, as a module proxy would serve them, before the
// machine's own proxies. go.sum decides what is accepted.
func goProxy(firstBase string) string {
	var proxies []string
	for _, pattern := range []string{"*bazel_gazelle_go_repository_cache/pkg/mod/cache/download", "*/proxy"} {
		folders, _ := filepath.Glob(filepath.Join(firstBase, "external", pattern))
		for _, folder := range folders {
			proxies = append(proxies, "file://"+folder)
		}
	}
	if machine := os.Getenv("GOPROXY"); machine != "" {
		proxies = append(proxies, machine)
	} else if output, err := exec.Command("go", "env", "GOPROXY").Output(); err == nil {
		proxies = append(proxies, strings.TrimSpace(string(output)))
	}
	return strings.Join(proxies, ",")
}

// repositoryCache finds the first build's downloads, which Bazel keeps by hash, or returns "".
func repositoryCache(firstBase string) string {
	cache := filepath.Join(filepath.Dir(firstBase), "cache", "repos", "v1")
	if _, err := os.Stat(cache); err != nil {
		return ""
	}
	return cache
}

func tail(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}
