// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsPort = 53
	// maxQuery is the most that is read of a query: it has one question, of at most
	// 255 bytes (RFC 1035, section 2.3.4), and perhaps an EDNS record.
	maxQuery = 1024
	// maxAddresses keeps an answer within what every resolver takes by UDP: 512 bytes
	// (RFC 1035, section 2.3.4).
	maxAddresses = 8
	// ttl is short: machines come and go.
	ttl = 5 // seconds
)

// zone is what names stand for: lower case, with a dot at the end.
type zone map[string][]netip.Addr

// zone has all names that the options tell of.
func (o Options) zone() zone {
	z := zone{}
	add := func(name string, addresses ...netip.Addr) {
		if len(addresses) > maxAddresses {
			addresses = addresses[:maxAddresses]
		}
		z[strings.ToLower(name)+"."+Domain+"."] = addresses
	}
	for _, h := range o.Hosts {
		add(h.Name, h.Address)
	}
	for name, addresses := range o.Names {
		add(name, addresses...)
	}
	return z
}

// serveNames answers queries until the connection is closed. What there is may change.
func serveNames(conn net.PacketConn, current func() zone) {
	query := make([]byte, maxQuery)
	for {
		n, from, err := conn.ReadFrom(query)
		if err != nil {
			return
		}
		if answer := current().answer(query[:n]); answer != nil {
			_, _ = conn.WriteTo(answer, from) // who lost it asks again
		}
	}
}

// answer answers one query; nil if that is none. This server knows everything that
// there is on an island: what is not in the zone does not exist.
func (z zone) answer(query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, Authoritative: true,
		RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	}
	q, err := p.Question()
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
		return pack(reply, nil, nil)
	case err != nil:
		reply.RCode = dnsmessage.RCodeFormatError
		return pack(reply, nil, nil)
	}
	addresses, known := z[strings.ToLower(q.Name.String())]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	if q.Class != dnsmessage.ClassINET || q.Type != dnsmessage.TypeA {
		addresses = nil // the name exists, and has nothing of that kind
	}
	return pack(reply, &q, addresses)
}

func pack(h dnsmessage.Header, q *dnsmessage.Question, addresses []netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	err := b.StartQuestions()
	if q != nil && err == nil {
		err = b.Question(*q)
	}
	if err == nil {
		err = b.StartAnswers()
	}
	for _, a := range addresses {
		if err == nil {
			err = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}, dnsmessage.AResource{A: a.As4()})
		}
	}
	out, finishErr := b.Finish()
	if err != nil || finishErr != nil {
		return nil
	}
	return out
}
