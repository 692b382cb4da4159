// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"io"
	"os"
	"sync"
)

// maxConsole is the most that is kept of a machine's console, twice: in the file, and in
// the one before it. In bytes.
const maxConsole = 8 << 20

// maxViewer is how much of the console may wait for somebody who watches it.
const maxViewer = 1024 // writes

// A console keeps what a machine prints in a file, and shows it to whoever watches. It
// never fails and never waits: the machine's output is more important than its log.
type console struct {
	path, older string

	mu      sync.Mutex
	file    *os.File
	size    int64
	viewers map[chan []byte]bool
}

func openConsole(path, older string) (*console, error) {
	c := &console{path: path, older: older, viewers: map[chan []byte]bool{}}
	return c, c.open()
}

// open appends to what earlier runs left.
func (c *console) open() error {
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	c.file, c.size = f, info.Size()
	return nil
}

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(p)
	for v := range c.viewers {
		select {
		case v <- append([]byte(nil), p...):
		default: // who is too slow misses some
		}
	}
	return len(p), nil
}

func (c *console) keep(p []byte) {
	if c.size > 0 && c.size+int64(len(p)) > maxConsole && c.file != nil {
		c.file.Close()
		c.file = nil
		if os.Rename(c.path, c.older) == nil {
			_ = c.open() // without a file there is nothing to keep
		}
	}
	if c.file != nil {
		n, _ := c.file.Write(p)
		c.size += int64(n)
	}
}

// watch begins to collect what comes from now on.
func (c *console) watch() *viewer {
	v := &viewer{console: c, writes: make(chan []byte, maxViewer)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.viewers[v.writes] = true
	return v
}

// A viewer is somebody who watches a console.
type viewer struct {
	console *console
	writes  chan []byte
}

// copy copies what was collected, and what comes, to w, until that fails or done is
// closed.
func (v *viewer) copy(w io.Writer, done <-chan struct{}) {
	for {
		select {
		case p := <-v.writes:
			if _, err := w.Write(p); err != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// close ends the watch.
func (v *viewer) close() {
	v.console.mu.Lock()
	defer v.console.mu.Unlock()
	delete(v.console.viewers, v.writes)
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}
