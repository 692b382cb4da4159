// SPDX-License-Identifier: Apache-2.0

// Package policy is the one document that says which machines are let in: by which
// technologies they may prove themselves, what they may have booted, who must
// vouch for their devices, and what each known device is called and may be.
//
// A policy is a JSON file of at most 1 MiB. To sign it, sign its bytes: nothing
// here depends on anything outside of it. Parse is strict (package strictjson). What
// a policy leaves out never means "anything goes": Parse refuses it and names what is
// missing.
//
// Parse does not check a signature, and a policy says nothing about the moment:
// expiry dates in it are judged when evidence is.
package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// Version is the only version of the format.
const Version = 1

// Limits of Parse.
const (
	MaxSize        = 1 << 20 // bytes of JSON
	maxAuthorities = 64
	maxInventory   = 4096
	maxFloors      = 64
	maxName        = 63 // bytes, as of a DNS label (RFC 1123, section 2.1)
)

// TPM is the only technology that a policy may allow so far.
const TPM attestation.Technology = "tpm"

// Roles that an inventory may grant.
const (
	ControlPlane = "control-plane"
	Worker       = "worker"
)

// Document is a valid policy.
type Document struct {
	// Technologies that are allowed.
	Technologies []attestation.Technology
	// Measurements that are accepted, each with its expiry.
	Measurements *accepted.Policy
	// Authorities that vouch for endorsement keys.
	Authorities []*x509.Certificate
	// Floors below which a security version is refused.
	Floors []Floor
	// FirstComeWorkers lets a device become a worker, under a name that is free, which an
	// authority vouches for and the inventory does not list.
	FirstComeWorkers bool
	// Digest is the SHA-256 of the document's bytes, to name it in logs.
	Digest measurements.Digest

	inventory map[string]Entry
	names     map[string]string // to roles
}

// Entry is a device of the inventory: who it is, what it is called, what it may be.
type Entry struct {
	attestation.Identity
	attestation.Grant
}

// Floor is the lowest accepted security version of a component.
type Floor struct {
	Technology attestation.Technology `json:"technology"`
	Component  string                 `json:"component"`
	Minimum    uint64                 `json:"minimum"`
}

// document is the JSON form.
type document struct {
	Version      *int                     `json:"version"`
	Technologies []attestation.Technology `json:"technologies"`
	Measurements json.RawMessage          `json:"measurements"`
	Endorsement  *endorsement             `json:"endorsement"`
	Floors       []Floor                  `json:"tcb_floors"`
	// FirstCome are the roles that unlisted devices may have. There may be Worker in it.
	FirstCome []string `json:"first_come,omitempty"`
}

type endorsement struct {
	// Authorities in PEM, one certificate each.
	Authorities []string `json:"authorities"`
	Inventory   []entry  `json:"inventory"`
}

type entry struct {
	Kind     attestation.IdentityKind `json:"kind"`
	Identity measurements.Digest      `json:"identity"`
	Name     string                   `json:"name"`
	Role     string                   `json:"role"`
}

// Error is why a document is no policy. Its attestation reason is ReasonPolicy.
type Error struct {
	// Missing names the fields that a policy must have and this one has not.
	Missing []string
	// Registers are the PCRs that a policy must name and this one does not.
	Registers []int
	Err       error
}

// Error implements error.
func (e *Error) Error() string {
	if len(e.Missing) > 0 {
		return "policy: it lacks " + strings.Join(e.Missing, ", ")
	}
	return fmt.Sprintf("policy: %v", e.Err)
}

// Unwrap makes attestation.ReasonOf find ReasonPolicy.
func (e *Error) Unwrap() error {
	return &attestation.Error{Reason: attestation.ReasonPolicy, Err: e.Err}
}

func refuse(format string, args ...any) error { return &Error{Err: fmt.Errorf(format, args...)} }

// Parse reads a policy. Every error is an *Error.
func Parse(data []byte) (*Document, error) {
	raw, err := decode(data)
	if err != nil {
		return nil, err
	}
	d, errs := build(raw)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	sum := sha256.Sum256(data)
	d.Digest = sum[:]
	return d, nil
}

// decode reads the JSON form of this version.
func decode(data []byte) (*document, error) {
	if len(data) > MaxSize {
		return nil, refuse("%d bytes, at most %d", len(data), MaxSize)
	}
	var raw document
	if err := strictjson.Decode(data, &raw); err != nil {
		return nil, refuse("%w", err)
	}
	if raw.Version != nil && *raw.Version != Version {
		return nil, refuse("version %d, this program reads %d", *raw.Version, Version)
	}
	return &raw, nil
}

// build makes a document, or says all that keeps it from being one.
func build(raw *document) (*Document, []error) {
	d := &Document{inventory: map[string]Entry{}, names: map[string]string{}}
	var errs []error
	if missing := raw.missing(); missing != nil {
		errs = append(errs, &Error{Missing: missing, Err: errors.New("incomplete")})
	}
	for _, step := range []func(*document) []error{d.technologies, d.measurements, d.endorsement, d.firstCome, d.floors} {
		errs = append(errs, step(raw)...)
	}
	return d, errs
}

// missingEndorsement names the two fields of which one must be there.
const missingEndorsement = "endorsement.authorities or endorsement.inventory"

// missing names all that is, so that a policy is not mended one error at a time.
func (raw *document) missing() (names []string) {
	for name, there := range map[string]bool{
		"version":      raw.Version != nil,
		"technologies": len(raw.Technologies) > 0,
		"measurements": !raw.lacksMeasurements(),
		missingEndorsement: raw.Endorsement != nil &&
			len(raw.Endorsement.Authorities)+len(raw.Endorsement.Inventory) > 0,
	} {
		if !there {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (raw *document) lacksMeasurements() bool {
	return len(raw.Measurements) == 0 || string(raw.Measurements) == "null"
}

func (d *Document) technologies(raw *document) (errs []error) {
	for i, t := range raw.Technologies {
		switch {
		case t != TPM:
			errs = append(errs, refuse("technology %q is not known; known is %q", t, TPM))
		case slices.Contains(raw.Technologies[:i], t):
			errs = append(errs, refuse("technology %q is there twice", t))
		}
	}
	d.Technologies = raw.Technologies
	return errs
}

func (d *Document) measurements(raw *document) []error {
	if raw.lacksMeasurements() {
		return nil // told by missing
	}
	m, err := accepted.Parse(raw.Measurements)
	if err == nil {
		d.Measurements = m
		return nil
	}
	errs := []error{measurementsError(err)}
	if m == nil || len(m.Accepted) < 2 {
		return errs
	}
	// One set is wrong at least: name what is wrong with each.
	errs = nil
	for _, set := range m.Accepted {
		one := accepted.Policy{Version: m.Version, Accepted: []accepted.Set{set}}
		if err := one.Validate(); err != nil {
			errs = append(errs, measurementsError(err))
		}
	}
	if errs == nil { // wrong only all together
		errs = []error{measurementsError(err)}
	}
	return errs
}

func measurementsError(err error) error {
	out := &Error{Err: fmt.Errorf("measurements: %w", err)}
	var e *accepted.Error
	if errors.As(err, &e) && (e.Reason == accepted.ReasonMissingRegisters || e.Reason == accepted.ReasonEmpty) {
		out.Registers = e.Registers
	}
	return out
}

func (d *Document) endorsement(raw *document) (errs []error) {
	if raw.Endorsement == nil {
		return nil
	}
	if len(raw.Endorsement.Authorities) > maxAuthorities {
		return []error{refuse("%d authorities, at most %d", len(raw.Endorsement.Authorities), maxAuthorities)}
	}
	for i, text := range raw.Endorsement.Authorities {
		c, err := parseAuthority(text)
		if err != nil {
			errs = append(errs, refuse("authority %d %w", i, err))
			continue
		}
		d.Authorities = append(d.Authorities, c)
	}
	if len(raw.Endorsement.Inventory) > maxInventory {
		return append(errs, refuse("%d entries in the inventory, at most %d", len(raw.Endorsement.Inventory), maxInventory))
	}
	for i, e := range raw.Endorsement.Inventory {
		if err := d.add(e); err != nil {
			errs = append(errs, refuse("entry %d of the inventory%w", i, err))
		}
	}
	return errs
}

func (d *Document) firstCome(raw *document) []error {
	if raw.FirstCome == nil {
		return nil
	}
	if len(raw.FirstCome) != 1 || raw.FirstCome[0] != Worker {
		return []error{refuse("first_come %q: it can be [%q], or left out: other roles are for devices of the inventory", raw.FirstCome, Worker)}
	}
	if raw.Endorsement == nil || len(raw.Endorsement.Authorities) == 0 {
		return []error{refuse("first_come without endorsement.authorities: nobody vouches for devices that the inventory does not list")}
	}
	d.FirstComeWorkers = true
	return nil
}

func parseAuthority(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("is not one certificate in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if !c.IsCA || !c.BasicConstraintsValid {
		return nil, fmt.Errorf("(%q) is not a certificate authority", c.Subject)
	}
	return c, nil
}

// add adds an entry to the inventory.
func (d *Document) add(e entry) error {
	if e.Kind != attestation.EndorsementKey || len(e.Identity) != sha256.Size {
		return fmt.Errorf(": want kind %q and a SHA-256 digest", attestation.EndorsementKey)
	}
	if !ValidName(e.Name) {
		return fmt.Errorf(": the name is not 1 to %d of a-z, 0-9, - with neither end a dash", maxName)
	}
	if e.Role != ControlPlane && e.Role != Worker {
		return fmt.Errorf(", %s: role %q is neither %q nor %q", e.Name, e.Role, ControlPlane, Worker)
	}
	id := attestation.Identity{Kind: e.Kind, Value: e.Identity}
	if _, twice := d.inventory[inventoryKey(id)]; twice || d.names[e.Name] != "" {
		return fmt.Errorf(", %s: the identity or the name is there twice", e.Name)
	}
	d.names[e.Name] = e.Role
	d.inventory[inventoryKey(id)] = Entry{id, attestation.Grant{Name: e.Name, Role: e.Role}}
	return nil
}

func (d *Document) floors(raw *document) (errs []error) {
	if len(raw.Floors) > maxFloors {
		return []error{refuse("%d floors, at most %d", len(raw.Floors), maxFloors)}
	}
	for i, f := range raw.Floors {
		switch {
		case !slices.Contains(raw.Technologies, f.Technology):
			errs = append(errs, refuse("floor %d is of technology %q, which is not allowed", i, f.Technology))
		case f.Technology == TPM: // a floor that is never compared would look like protection
			errs = append(errs, refuse("floor %d: technology %q reports no security versions", i, f.Technology))
		}
	}
	d.Floors = raw.Floors
	return errs
}

// Allows says whether a technology is allowed.
func (d *Document) Allows(t attestation.Technology) bool { return slices.Contains(d.Technologies, t) }

// Granted is what the inventory says of an identity, nil if it does not list it.
func (d *Document) Granted(id attestation.Identity) *attestation.Grant {
	if e, ok := d.inventory[inventoryKey(id)]; ok {
		return &e.Grant
	}
	return nil
}

// Inventory lists the known devices by name.
func (d *Document) Inventory() []Entry {
	return slices.SortedFunc(maps.Values(d.inventory), func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
}

// Reserved says whether the inventory gives a name to one of its devices.
func (d *Document) Reserved(name string) bool { return d.names[name] != "" }

// CheckPCRs returns the name of the accepted measurements that the values match. Its
// errors are refusals with ReasonMeasurements, ReasonExpired or ReasonSelection.
func (d *Document) CheckPCRs(pcrs measurements.Banks, now time.Time) (string, error) {
	set, err := d.Measurements.Check(pcrs, now)
	if err == nil {
		return set.Name, nil
	}
	reason := attestation.ReasonMeasurements
	var e *accepted.Error
	if errors.As(err, &e) {
		switch e.Reason {
		case accepted.ReasonExpired:
			reason = attestation.ReasonExpired
		case accepted.ReasonMissingPCR:
			reason = attestation.ReasonSelection
		}
	}
	return "", &attestation.Error{Reason: reason, Err: err}
}

func inventoryKey(id attestation.Identity) string { return string(id.Kind) + "/" + id.Value.String() }

// ValidName says whether s can be a node's name: 1 to 63 of a-z, 0-9 and dashes, with
// neither end a dash.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
