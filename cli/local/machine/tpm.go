// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// tpmStateFile is where swtpm keeps a TPM 2.0's persistent state in its folder.
const tpmStateFile = "tpm2-00.permall"

// manufacture makes a TPM's first state in dir, unless there is one already.
func (c Config) manufacture(ctx context.Context, t tools, dir string) error {
	switch _, err := os.Stat(filepath.Join(dir, tpmStateFile)); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("look for the TPM's state: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the TPM's folder: %w", err)
	}
	args := []string{
		"--tpm2", "--tpmstate", ".", "--tpm", t.swtpm + " socket",
		"--pcr-banks", strings.Join(c.TPM.Banks, ","), "--overwrite",
	}
	if c.TPM.AuthorityDir != "" {
		config, err := prepareAuthority(c.TPM.AuthorityDir, t)
		if err != nil {
			return err
		}
		unlock, err := lockFile(filepath.Join(c.TPM.AuthorityDir, "lock"), true)
		if err != nil {
			return err
		}
		defer unlock()
		args = append(args, "--config", config, "--create-ek-cert", "--vmid", c.Name)
	}
	cmd := exec.CommandContext(ctx, t.swtpmSetup, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if output, err := cmd.CombinedOutput(); err != nil {
		// A half-made TPM must not be taken for a finished one by the next start.
		os.Remove(filepath.Join(dir, tpmStateFile))
		if ctx.Err() != nil {
			return fmt.Errorf("manufacture the TPM: %w", ctx.Err())
		}
		return fmt.Errorf("manufacture the TPM: swtpm_setup: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// prepareAuthority writes the configuration of a local certificate authority
// for endorsement keys, all of whose files are in dir, and returns the path of
// swtpm_setup's configuration.
func prepareAuthority(dir string, t tools) (string, error) {
	if t.swtpmLocalCA == "" {
		return "", &MissingToolError{Tool: "swtpm_localca", Package: "swtpm-tools"}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the endorsement authority: %w", err)
	}
	config := filepath.Join(dir, "swtpm_setup.conf")
	files := map[string]string{
		config: fmt.Sprintf("create_certs_tool=%s\ncreate_certs_tool_config=%s\ncreate_certs_tool_options=%s\n",
			t.swtpmLocalCA, filepath.Join(dir, "swtpm-localca.conf"), filepath.Join(dir, "swtpm-localca.options")),
		filepath.Join(dir, "swtpm-localca.conf"): fmt.Sprintf(
			"statedir = %s\nsigningkey = %s\nissuercert = %s\ncertserial = %s\n",
			dir, filepath.Join(dir, "signkey.pem"), filepath.Join(dir, "issuercert.pem"), filepath.Join(dir, "certserial")),
		filepath.Join(dir, "swtpm-localca.options"): "--platform-manufacturer Constellation\n--platform-version 1.0\n--platform-model QEMU\n",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("configure the endorsement authority: %w", err)
		}
	}
	return config, nil
}

// swtpm takes its options from words that are parted by commas, without a way to
// quote one: the folder's path does not go through them.

// startTPM starts swtpm on the state in dir. control is its end of the socket
// pair whose other end QEMU gets; swtpm ends when QEMU closes that.
func startTPM(t tools, dir string, control, hold *os.File) (*process, error) {
	var files descriptors
	fd := files.add(control)
	if hold != nil {
		files.add(hold)
	}
	return startProcess(t.swtpm, []string{
		"socket", "--tpm2", "--tpmstate", "dir=.",
		"--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", fd), "--terminate",
	}, files, func(cmd *exec.Cmd) { cmd.Dir = dir })
}

// lockFile takes an exclusive lock on a file, which it makes if need be.
func lockFile(path string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
