// SPDX-License-Identifier: Apache-2.0

package verify_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/cli/verify"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
)

// programs are on PATH in tests.
var programs = map[string]func(){"constellation": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }}

func TestMain(m *testing.M) { testscript.Main(m, programs) }

func run(args []string, stdout, stderr io.Writer) int {
	policies := policy.Command()
	policies.AddCommand(verify.ApplyCommand())
	return command.Run(context.Background(), command.New(evidence.Command(), policies, verify.Command()), args, stdout, stderr)
}

// recorded is what two software TPMs once answered, and the images that they booted
// or did not.
const recorded = "../evidence/testdata/recorded"

// clusterID is the identity of the tests' cluster, otherID that of another.
var (
	clusterID = strings.Repeat("c1", 32)
	otherID   = strings.Repeat("d2", 32)
)

// TestScripts has the command judge services that do not prove anything: one that
// replays what a TPM once said, and those that say something else or nothing.
func TestScripts(t *testing.T) {
	replay, err := os.ReadFile(filepath.Join(recorded, "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]http.HandlerFunc{
		"REPLAY": func(w http.ResponseWriter, _ *http.Request) { w.Write(replay) },
		"NOJSON": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"TRUNCATED": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999")
			w.Write(replay[:100])
		},
		"OVERSIZED": func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) },
		"BUSY": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, `{"reason": "busy", "detail": "others were here before", "retry_after_seconds": 1}`)
		},
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, nobody else does
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	endpoints := map[string]string{"SILENT": silent.Addr().String(), "NOBODY": "127.0.0.1:1"}
	for name, page := range pages {
		s := httptest.NewServer(page)
		t.Cleanup(s.Close)
		endpoints[name] = s.URL
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			setEnv(env, endpoints)
			return os.CopyFS(env.WorkDir, os.DirFS(recorded))
		},
	})
}

func setEnv(env *testscript.Env, endpoints map[string]string) {
	for name, endpoint := range endpoints {
		env.Setenv(name, endpoint)
	}
	env.Setenv("CLUSTER", clusterID)
	env.Setenv("OTHER_CLUSTER", otherID)
}

// TestPaths: what docs/verify.md and other people's scripts hold on to.
func TestPaths(t *testing.T) {
	if api.EvidencePath != "/v1/evidence" || api.ResponsePath != "/v1/response" || api.Port != 9446 || api.HTTPPort != 9447 {
		t.Error("paths or ports have changed")
	}
}
