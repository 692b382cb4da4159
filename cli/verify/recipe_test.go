// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package verify_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func init() { programs["curl"] = curl }

// curl stands for the program of that name, which the toolbox has not, as far as the
// recipe uses it.
func curl() {
	f := flag.NewFlagSet("curl", flag.ExitOnError)
	f.Bool("silent", false, "")
	f.Bool("show-error", false, "")
	f.Bool("fail", false, "")
	seconds, size, data := f.Int("max-time", 0, ""), f.Int64("max-filesize", 0, ""), f.String("data", "", "")
	f.Parse(os.Args[1:])
	if err := post(f.Arg(0), *data, time.Duration(*seconds)*time.Second, *size); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		os.Exit(22)
	}
}

func post(url, data string, limit time.Duration, size int64) error {
	if name, isFile := strings.CutPrefix(data, "@"); isFile {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		data = strings.ReplaceAll(string(content), "\n", "") // as curl does
	}
	client := &http.Client{Timeout: limit}
	resp, err := client.Post(url, "application/x-www-form-urlencoded", strings.NewReader(data))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength > size {
		return fmt.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// script takes the steps out of a page's section.
func script(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var out strings.Builder
	for _, block := range regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(section, -1) {
		out.WriteString(block[1])
	}
	return out.String()
}

// testRecipe: with other people's tools everybody comes to the same verdict on a node.
func (c *cluster) testRecipe(t *testing.T) {
	check, steps := script(t, "attestation.md", "How to check evidence without us"), script(t, "verify.md", "Verify a node without us")
	policy := c.file("members.json")
	if code := run([]string{"policy", "create", policy, "--measurements", c.file("measurements.json"), "--not-after", "2099-01-01",
		"--authority", c.file("ca.pem"), "--cluster-id", clusterID}, os.Stdout, os.Stderr); code != 0 {
		t.Fatal(code)
	}
	for _, tc := range []struct{ node, want string }{
		{"THREE", "accepted, TPM "}, {"RELABELLED", "accepted, TPM "},
		{"FRESH", "refused: not-in-cluster"}, {"FOREIGN", "refused: measurements"}, {"EVIL", "refused: measurements"},
		{"STRANGER", "refused: identity"}, {"SPLICED", "refused: challenge"}, {"REPLAY", "refused: binding"},
		{"DROPPED", "refused: event-log"}, {"CLAIMED", "refused: register-digest"},
	} {
		t.Run(tc.node, func(t *testing.T) {
			dir := t.TempDir()
			data, err := os.ReadFile(policy)
			if err != nil {
				t.Fatal(err)
			}
			mine := regexp.MustCompile(`(?m)^(node|cluster)=.*$`).ReplaceAllStringFunc(steps, func(line string) string {
				if strings.HasPrefix(line, "node") {
					return "node=" + c.endpoints[tc.node+"_HTTP"]
				}
				return "cluster=" + clusterID
			})
			for name, content := range map[string]string{"policy.json": string(data), "check.sh": check, "steps.sh": mine} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), "bash", "steps.sh")
			cmd.Dir = dir
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if !strings.HasPrefix(string(out), tc.want) || strings.Count(string(out), "\n") != 1 || (err == nil) != strings.HasPrefix(tc.want, "accepted") {
				t.Errorf("%v, %q, want %q\n%s", err, out, tc.want, errs.String())
			}
		})
	}
}
