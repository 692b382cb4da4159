// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"net"
	"testing"
)

// TestShareIsGivenBack when a connection ends.
func TestShareIsGivenBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newSharing(l, 1)
	defer s.Close()
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		accepted, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		accepted.Close()
		accepted.Close()
	}
	if len(s.open) != 0 {
		t.Errorf("still counted: %v", s.open)
	}
}
