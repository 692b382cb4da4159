// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// A socket's path is short (108 bytes, unix(7)), a folder's need not be: the socket is
// named by way of an open descriptor of the folder.

func (d Dir) socket() (path string, release func(), err error) {
	f, err := os.Open(string(d))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), socketFile), func() { f.Close() }, nil
}

// listen makes the socket. The caller has the folder's lock, so that a socket which is
// there is one that a supervisor left that was killed.
func (d Dir) listen() (net.Listener, error) {
	if err := os.Remove(d.path(socketFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	path, release, err := d.socket()
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Its name is good only until release. The socket goes with its folder.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(d.path(socketFile), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// dial connects to the socket.
func (d Dir) dial(ctx context.Context) (net.Conn, error) {
	path, release, err := d.socket()
	if err != nil {
		return nil, err
	}
	defer release()
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// notThere says whether an error of dial means that nobody listens.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
