// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// outputTail is how much of a process's own messages is kept for errors.
const outputTail = 8 << 10

// A process is a child that the kernel kills when this process dies.
type process struct {
	cmd    *exec.Cmd
	output *ring
	done   chan struct{} // closed once the child has been reaped
	err    error         // how the child ended; valid once done is closed
}

// startProcess starts a program. files become its descriptors 3, 4, ...; they
// remain the caller's to close.
//
// The parent-death signal is bound to the thread that forked, not to the
// process, so that thread is kept until the child has been reaped.
func startProcess(program string, args []string, files []*os.File, setup func(*exec.Cmd)) (*process, error) {
	p := &process{
		cmd:    exec.Command(program, args...),
		output: newRing(outputTail),
		done:   make(chan struct{}),
	}
	p.cmd.Stdout = p.output
	p.cmd.Stderr = p.output
	p.cmd.ExtraFiles = files
	// An own process group keeps the terminal's Ctrl-C from reaching the child
	// before its owner has had a say.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if setup != nil {
		setup(p.cmd)
	}

	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

// kill ends the process and waits until it is reaped.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// describe adds the last words of a process to the error that it ended with.
func (p *process) describe(err error) error {
	if words := strings.TrimSpace(string(p.output.Tail())); words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// A keeper removes a machine's temporary folder when the last process that uses
// it is gone, however these ended. It is a shell that waits for the end of a
// pipe whose writing side this process and the machine's processes hold.
type keeper struct {
	hold *os.File // the writing side, given to every process that uses the folder
	cmd  *exec.Cmd
	once sync.Once
	err  error
}

func startKeeper(dir string) (*keeper, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the keeper's pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r _; exec rm -rf -- "$1"`, "constellation-keeper", dir)
	cmd.Stdin = r
	cmd.Dir = "/"
	// A session of its own: whoever kills our process group does not get the keeper.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start the keeper of %s: %w", dir, err)
	}
	return &keeper{hold: w, cmd: cmd}, nil
}

// release gives up this process's hold and waits until the folder is removed.
// Every other process that holds it must have ended.
func (k *keeper) release() error {
	k.once.Do(func() {
		k.hold.Close()
		k.err = k.cmd.Wait()
	})
	return k.err
}
