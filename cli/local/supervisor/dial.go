// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// dialTime bounds how long a machine may take to accept a connection.
const dialTime = 30 * time.Second

// carry connects the caller to a TCP port of a machine, until either of them ends it.
func (s *Supervisor) carry(m *supervised, port string, w http.ResponseWriter) error {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return fmt.Errorf("port %.20q: want 1 to 65535", port)
	}
	ctx, cancel := context.WithTimeout(s.ctx, dialTime)
	defer cancel()
	there, err := s.network.Dial(ctx, netip.AddrPortFrom(m.spec.Address, uint16(number)))
	if err != nil {
		return err
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer here.Close()
	defer closeOnDone(s.ctx, here)()
	defer closeOnDone(s.ctx, there)()
	if _, err := io.WriteString(here, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"); err != nil {
		return nil // the caller is gone, and was answered already
	}
	var both sync.WaitGroup
	both.Go(func() { forward(there, buffered) })
	both.Go(func() { forward(here, there) })
	both.Wait()
	return nil
}

// forward copies what comes, and its end.
func forward(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	to.Close()
}
