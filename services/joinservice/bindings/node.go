// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
)

// Node is a machine that was admitted.
type Node struct {
	// Device is whose it is: KIND/HEX.
	Device string
	// Name and Role in the cluster.
	Name, Role string
	// Address is where it was last seen when it asked for a ticket.
	Address string
	// Disk is the UUID of its state disk, and KeyVersion that of the disk's key.
	Disk       string
	KeyVersion keys.Version
	// Known is the disk's generation; the zero value until the disk was opened.
	Known disk.Generation
	// Ticket is the last one.
	Ticket Ticket

	version string // of the object
}

// Ticket is good for one step of the disk's generation, until it expires.
type Ticket struct {
	// ID has 32 hexadecimal digits.
	ID      string
	Expires time.Time
	Used    bool
}

// NewTicket makes one that is good for so long.
func NewTicket(now time.Time, life time.Duration) Ticket {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return Ticket{ID: hex.EncodeToString(id[:]), Expires: now.Add(life).UTC().Truncate(time.Second)}
}

// Device names a device by its identity.
func Device(id attestation.Identity) string { return string(id.Kind) + "/" + id.Value.String() }

var diskForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// CheckDisk says whether uuid can name a disk: a UUID in lower case.
func CheckDisk(uuid string) error {
	if !diskForm.MatchString(uuid) {
		return errors.New("the disk's name is not a UUID in lower case")
	}
	return nil
}

func nodeObject(device string) string {
	sum := sha256.Sum256([]byte(device))
	return "node-" + hex.EncodeToString(sum[:])
}

// Fields of a node's object.
const (
	fieldDevice     = "device"
	fieldName       = "name"
	fieldRole       = "role"
	fieldAddress    = "address"
	fieldDisk       = "disk"
	fieldKeyVersion = "key_version"
	fieldGeneration = "generation"
	fieldTicket     = "ticket"
	fieldExpires    = "ticket_expires"
	fieldUsed       = "ticket_used"
)

func (n *Node) object() *Object {
	return &Object{Name: nodeObject(n.Device), Version: n.version, Data: map[string]string{
		fieldDevice: n.Device, fieldName: n.Name, fieldRole: n.Role, fieldAddress: n.Address, fieldDisk: n.Disk,
		fieldKeyVersion: strconv.FormatUint(uint64(n.KeyVersion), 10),
		fieldGeneration: formatGeneration(n.Known),
		fieldTicket:     n.Ticket.ID, fieldExpires: n.Ticket.Expires.Format(time.RFC3339),
		fieldUsed: strconv.FormatBool(n.Ticket.Used),
	}}
}

// parseNode reads what object wrote, or what an administrator changed in it.
func parseNode(o *Object) (*Node, error) {
	n := &Node{
		Device: o.Data[fieldDevice], Name: o.Data[fieldName], Role: o.Data[fieldRole], Address: o.Data[fieldAddress], Disk: o.Data[fieldDisk],
		Ticket: Ticket{ID: o.Data[fieldTicket]}, version: o.Version,
	}
	version, err := strconv.ParseUint(o.Data[fieldKeyVersion], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("object %s: %s: %w", o.Name, fieldKeyVersion, err)
	}
	n.KeyVersion = keys.Version(version)
	if n.Known, err = parseGeneration(o.Data[fieldGeneration]); err != nil {
		return nil, fmt.Errorf("object %s: %s: %w", o.Name, fieldGeneration, err)
	}
	if n.Ticket.Expires, err = time.Parse(time.RFC3339, o.Data[fieldExpires]); err != nil {
		return nil, fmt.Errorf("object %s: %s: %w", o.Name, fieldExpires, err)
	}
	if n.Ticket.Used, err = strconv.ParseBool(o.Data[fieldUsed]); err != nil {
		return nil, fmt.Errorf("object %s: %s: %w", o.Name, fieldUsed, err)
	}
	if nodeObject(n.Device) != o.Name {
		return nil, fmt.Errorf("object %s is not of the device that it names", o.Name)
	}
	return n, nil
}

// formatGeneration is NUMBER/ID, nothing for none.
func formatGeneration(g disk.Generation) string {
	if g == (disk.Generation{}) {
		return ""
	}
	return strconv.FormatUint(g.Number, 10) + "/" + g.ID
}

func parseGeneration(s string) (g disk.Generation, err error) {
	if s == "" {
		return g, nil
	}
	number, id, _ := strings.Cut(s, "/")
	if g.Number, err = strconv.ParseUint(number, 10, 64); err != nil {
		return g, err
	}
	g.ID = id
	return g, CheckGeneration(g)
}

var generationForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// CheckGeneration says whether g is a generation; the zero value is none.
func CheckGeneration(g disk.Generation) error {
	if g.Number == 0 || !generationForm.MatchString(g.ID) {
		return errors.New("a generation has a number from 1 on and 32 hexadecimal digits")
	}
	return nil
}
