// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Systemd is the service manager, by its own programs.
type Systemd struct {
	// Systemctl and Journalctl are the programs' paths.
	Systemctl, Journalctl string
}

// maxOutput bounds what is kept of a program's output, in bytes.
const maxOutput = 16 << 10

// Start implements steps.Units. The unit's job goes on if ctx ends first.
func (s *Systemd) Start(ctx context.Context, unit string) error {
	// A unit that failed too often in a short time would not start for that reason.
	_, _ = s.run(ctx, "reset-failed", "--", unit) // it fails for a unit that was never loaded
	_, err := s.run(ctx, "start", "--", unit)
	if err == nil {
		return nil
	}
	if _, state, stateErr := s.Active(ctx, unit); stateErr == nil {
		return fmt.Errorf("%s is %s (%w)", unit, state, err)
	}
	return fmt.Errorf("%s: %w", unit, err)
}

// Active implements steps.Units.
func (s *Systemd) Active(ctx context.Context, unit string) (bool, string, error) {
	out, err := s.run(ctx, "show", "--property=ActiveState,SubState,Result,ExecMainStatus,ConditionResult", "--", unit)
	if err != nil {
		return false, "", err
	}
	active, state := parseState(out)
	return active, state, nil
}

// parseState reads what "systemctl show" says of a unit.
func parseState(shown string) (active bool, state string) {
	p := map[string]string{}
	for line := range strings.Lines(shown) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p[key] = value
	}
	state = p["ActiveState"] + ", " + p["SubState"]
	if result := p["Result"]; result != "" && result != "success" {
		state += ", " + result + " (status " + p["ExecMainStatus"] + ")"
	}
	if p["ConditionResult"] == "no" {
		state += ", a condition of the unit is not met"
	}
	return p["ActiveState"] == "active", state
}

func (s *Systemd) run(ctx context.Context, args ...string) (string, error) {
	return output(ctx, s.Systemctl, append([]string{"--no-ask-password", "--no-pager"}, args...)...)
}

// output runs a program, and returns the end of what it writes.
func output(ctx context.Context, program string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, program, args...)
	command.WaitDelay = 5 * time.Second
	var stdout, stderr tail
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if said := strings.TrimSpace(string(stderr.b)); said != "" {
			return "", fmt.Errorf("%s: %w", said, err)
		}
		return "", err
	}
	return string(stdout.b), nil
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-maxOutput):]
	return len(p), nil
}

// Logs returns the end of these units' journal, which is in memory and so of this boot:
// at most size bytes of whole lines.
func (s *Systemd) Logs(ctx context.Context, size int, units ...string) ([]byte, error) {
	args := []string{"--no-pager", "--quiet", "--no-hostname", "--output=short-monotonic", "--lines=" + strconv.Itoa(size/100)}
	for _, unit := range units {
		args = append(args, "--unit="+unit)
	}
	command := exec.CommandContext(ctx, s.Journalctl, args...)
	command.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &limited{w: &stderr, left: maxOutput}
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("read the journal: %s: %w", strings.TrimSpace(stderr.String()), err)
	}
	return lastLines(stdout.Bytes(), size), nil
}

// limited drops what is more than there is room for.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.left, len(p))
	l.left -= n
	_, err := l.w.Write(p[:n])
	return len(p), err
}

// lastLines is the end of text: whole lines of at most size bytes together.
func lastLines(text []byte, size int) []byte {
	if len(text) <= size {
		return text
	}
	text = text[len(text)-size:]
	if _, rest, ok := bytes.Cut(text, []byte("\n")); ok {
		return rest
	}
	return text
}
