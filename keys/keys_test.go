// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

const diskID = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"

func wantClass(t *testing.T, err error, want Class) {
	t.Helper()
	if got := ClassOf(err); got != want {
		t.Errorf("got class %q (%v), want %q", got, err, want)
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		purpose Purpose
		id      string
		length  int
		says    string
	}{
		{"no purpose", "", "x", 32, `purpose ""`},
		{"unknown purpose", "state-disks", "x", 32, `purpose "state-disks"`},
		{"purpose in capitals", "State-Disk", "x", 32, `purpose "State-Disk"`},
		{"purpose with a slash", "state-disk/x", "x", 32, `purpose "state-disk/x"`},
		{"no id", PurposeStateDisk, "", 32, "1 to 128 characters, not 0"},
		{"long id", PurposeStateDisk, strings.Repeat("x", 129), 32, "1 to 128 characters, not 129"},
		{"slash in the id", PurposeStateDisk, "a/b", 32, "letters, digits"},
		{"zero byte in the id", PurposeStateDisk, "a\x00b", 32, "letters, digits"},
		{"broken UTF-8 in the id", PurposeStateDisk, "a\xffb", 32, "letters, digits"},
		{"a letter that looks alike", PurposeStateDisk, "а", 32, "letters, digits"},
		{"no length", PurposeStateDisk, "x", 0, "16 to 64 bytes, not 0"},
		{"negative length", PurposeStateDisk, "x", -1, "16 to 64 bytes, not -1"},
		{"short", PurposeStateDisk, "x", 15, "16 to 64 bytes, not 15"},
		{"long", PurposeStateDisk, "x", 65, "16 to 64 bytes, not 65"},
		{"another measurement secret", PurposeMeasurement, "x", 32, "only key for measurement"},
		{"half a measurement secret", PurposeMeasurement, MeasurementID, 16, "only key for measurement"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Generate().DataKey(t.Context(), tc.purpose, tc.id, tc.length, 0)
			wantClass(t, err, ClassInvalid)
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not say %q", err, tc.says)
			}
		})
	}
}

// TestKeysAreToldApart: by purpose, id, version, salt; and by nothing else.
func TestKeysAreToldApart(t *testing.T) {
	r := Generate()
	if _, err := r.Rotate(); err != nil {
		t.Fatal(err)
	}
	get := func(p Purpose, id string, v Version) string {
		k, err := r.DataKey(t.Context(), p, id, 32, v)
		if err != nil {
			t.Fatal(err)
		}
		return string(k.Secret.Copy())
	}
	same := get(PurposeStateDisk, "a", 1)
	if same != get(PurposeStateDisk, "a", 1) {
		t.Error("the same question has two answers")
	}
	for name, other := range map[string]string{
		"purpose": get(PurposePersistentVolume, "a", 1),
		"id":      get(PurposeStateDisk, "b", 1),
		"version": get(PurposeStateDisk, "a", 2),
	} {
		if same == other {
			t.Errorf("another %s, the same key", name)
		}
	}
}

// TestPurposesCannotBeMixed: the types of keys for two purposes cannot be
// assigned or converted to each other, by value or by pointer.
func TestPurposesCannotBeMixed(t *testing.T) {
	types := []reflect.Type{
		reflect.TypeFor[Key[StateDisk]](), reflect.TypeFor[Key[PersistentVolume]](), reflect.TypeFor[Key[Measurement]](),
		reflect.TypeFor[Key[Recovery]](), reflect.TypeFor[Key[SSHCA]](), reflect.TypeFor[Key[SecretsEncryption]](),
	}
	if len(types) != len(Purposes()) {
		t.Fatalf("%d types for %d purposes", len(types), len(Purposes()))
	}
	for i, a := range types {
		for j, b := range types {
			if i != j && (a.ConvertibleTo(b) || reflect.PointerTo(a).ConvertibleTo(reflect.PointerTo(b))) {
				t.Errorf("%v can be converted to %v", a, b)
			}
		}
	}
}

// confused answers every question with the same key.
type confused struct{ key DataKey }

func (c *confused) DataKey(context.Context, Purpose, string, int, Version) (*DataKey, error) {
	return &c.key, nil
}

func TestGetRefusesAnotherKey(t *testing.T) {
	for name, key := range map[string]DataKey{
		"purpose": {Purpose: PurposeRecovery, ID: "x", Secret: RandomSecret(32)},
		"id":      {Purpose: PurposeStateDisk, ID: "y", Secret: RandomSecret(32)},
		"length":  {Purpose: PurposeStateDisk, ID: "x", Secret: RandomSecret(16)},
	} {
		_, err := Get[StateDisk](t.Context(), &confused{key}, "x", 32, 0)
		if ClassOf(err) != ClassInternal || key.Secret.Len() != 0 {
			t.Errorf("another %s: got %v, %d bytes left", name, err, key.Secret.Len())
		}
	}
}

// TestSecretsAreNotPrinted tries what programs do to values by accident.
func TestSecretsAreNotPrinted(t *testing.T) {
	text := "this-is-the-secret-of-32-bytes!!"
	s := NewSecret([]byte(text))
	key := &Key[StateDisk]{Secret: s, Version: 1, id: "x"}
	type holder struct {
		Public  Secret
		private Secret
		key     *Key[StateDisk]
		value   Key[StateDisk]
	}
	held := holder{s, s, key, *key}
	ring := &Keyring{secrets: map[Version]Secret{1: s}, measurement: s, newest: 1}
	var out bytes.Buffer
	for _, value := range []any{s, &s, key, *key, held, &held, ring, DataKey{Secret: s}, []Secret{s}, map[string]Secret{"x": s}, fmt.Errorf("%v", s)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%p", "%o"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("test", "value", value)
		}
		enc, err := json.Marshal(value)
		fmt.Fprintln(&out, string(enc), err)
		fmt.Fprintln(&out, gob.NewEncoder(&out).Encode(value))
	}
	printed := out.String()
	for _, form := range []string{
		text, text[:12], fmt.Sprintf("%x", text[:8]), fmt.Sprintf("%X", text[:8]), "116 104 105 115", "0x74, 0x68", "dGhpcy1pcy10", "74 68 69 73",
	} {
		if i := strings.Index(printed, form); i >= 0 {
			t.Errorf("printed as %.80q", printed[i:])
		}
	}
	if !strings.Contains(printed, redacted) {
		t.Error("nothing was printed: this test looks at nothing")
	}
	if _, err := json.Marshal(s); err == nil || !strings.Contains(err.Error(), "not encoded") {
		t.Errorf("json: got %v", err)
	}
}

func TestWipe(t *testing.T) {
	raw := []byte("this-is-the-secret-of-32-bytes!!")
	s := NewSecret(raw)
	copied := s
	s.Wipe()
	if !bytes.Equal(raw, make([]byte, 32)) {
		t.Error("the bytes are still there")
	}
	if copied.Len() != 0 || copied.Equal(NewSecret([]byte("x"))) {
		t.Error("a copy still holds something")
	}
	Secret{}.Wipe()
	if (Secret{}).Len() != 0 {
		t.Error("the zero value holds something")
	}
	if _, err := Expand(s, nil, PurposeStateDisk, "x", 32); ClassOf(err) != ClassInternal {
		t.Errorf("derived from a wiped secret: %v", err)
	}
}

func TestWipedKeyringDerivesNothing(t *testing.T) {
	r := Generate()
	secret := r.secrets[1]
	r.Wipe()
	if secret.Len() != 0 {
		t.Error("the master secret is still there")
	}
	_, err := r.DataKey(t.Context(), PurposeStateDisk, "x", 32, 0)
	wantClass(t, err, ClassVersion)
	_, err = r.ClusterID()
	wantClass(t, err, ClassInternal)
	_, err = r.Marshal()
	wantClass(t, err, ClassInternal)
}

func TestRotation(t *testing.T) {
	r := Generate()
	identity, err := r.ClusterID()
	if err != nil {
		t.Fatal(err)
	}
	old, err := Get[StateDisk](t.Context(), r, diskID, 32, 0)
	if err != nil || old.Version != 1 {
		t.Fatalf("version %d, %v", old.Version, err)
	}
	if v, err := r.Rotate(); v != 2 || err != nil {
		t.Fatalf("version %d, %v", v, err)
	}
	fresh, err := Get[StateDisk](t.Context(), r, diskID, 32, 0)
	if err != nil || fresh.Version != 2 || fresh.Equal(old.Secret) {
		t.Errorf("after the rotation: version %d, %v, same key: %v", fresh.Version, err, fresh.Equal(old.Secret))
	}
	again, err := Get[StateDisk](t.Context(), r, diskID, 32, 1)
	if err != nil || again.Version != 1 || !again.Equal(old.Secret) {
		t.Errorf("the old version: %d, %v, same key: %v", again.Version, err, again.Equal(old.Secret))
	}

	wantClass(t, r.Retire(2), ClassVersion)
	wantClass(t, r.Retire(7), ClassVersion)
	if err := r.Retire(1); err != nil {
		t.Fatal(err)
	}
	_, err = Get[StateDisk](t.Context(), r, diskID, 32, 1)
	wantClass(t, err, ClassVersion)
	if got, err := r.ClusterID(); err != nil || got != identity {
		t.Errorf("the cluster ID changed to %v (%v) from %v", got, err, identity)
	}
	_, err = Get[Measurement](t.Context(), r, MeasurementID, MeasurementSize, 2)
	wantClass(t, err, ClassVersion)
	if m, err := Get[Measurement](t.Context(), r, MeasurementID, MeasurementSize, 0); err != nil || m.Version != 1 {
		t.Errorf("measurement secret: version %d, %v", m.Version, err)
	}

	data, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read.ClusterID(); err != nil || got != identity {
		t.Errorf("read from its file, the cluster ID is %v (%v), was %v", got, err, identity)
	}
}

func TestVersionsAreBounded(t *testing.T) {
	r := Generate()
	for range maxVersions - 1 {
		if _, err := r.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.Rotate()
	wantClass(t, err, ClassInvalid)
}

func TestErrors(t *testing.T) {
	if got := ClassOf(io.EOF); got != ClassInternal {
		t.Errorf("got %q", got)
	}
	if got := ClassOf(fmt.Errorf("x: %w", Errorf(ClassThrottled, "y"))); got != ClassThrottled {
		t.Errorf("got %q", got)
	}
	if got := ClassOf(nil); got != "" {
		t.Errorf("got %q", got)
	}
}

func FuzzCheck(f *testing.F) {
	for _, id := range []string{"", diskID, "a/b", "..", strings.Repeat("x", 200), "\xff"} {
		f.Add("state-disk", id, 32)
	}
	f.Add("measurement", MeasurementID, 32)
	r := Generate()
	f.Fuzz(func(t *testing.T, purpose, id string, length int) {
		k, err := r.DataKey(t.Context(), Purpose(purpose), id, length, 0)
		if err != nil {
			if ClassOf(err) != ClassInvalid || len(err.Error()) > 300 {
				t.Fatalf("%q", err)
			}
			return
		}
		// A label is taken apart in one way only.
		parts := strings.Split(Label(k.Purpose, k.ID), "/")
		if len(parts) != 4 || parts[2] != purpose || parts[3] != id || k.Secret.Len() != length {
			t.Fatalf("label %q, %d bytes", parts, k.Secret.Len())
		}
	})
}

func BenchmarkDerive(b *testing.B) {
	r := Generate()
	b.ReportAllocs()
	for b.Loop() {
		k, err := r.DataKey(b.Context(), PurposeStateDisk, diskID, 32, 0)
		if err != nil {
			b.Fatal(err)
		}
		k.Secret.Wipe()
	}
}
