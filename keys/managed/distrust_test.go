// SPDX-License-Identifier: Apache-2.0

package managed_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
)

func TestStoreIsNotTrusted(t *testing.T) {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	s := source(t, store, kms)
	must(t, s, "a", 0)
	name := store.Names()[0]
	good, err := store.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s, "b", 0)
	names := store.Names()
	other, err := store.Get(t.Context(), names[1-slices.Index(names, name)])
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(r *managed.Record)) []byte {
		r, err := managed.ParseRecord(good)
		if err != nil {
			t.Fatal(err)
		}
		f(r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	foreign, err := managed.ParseRecord(other)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		record []byte
		want   keys.Class
		says   string
	}{
		{"empty", nil, keys.ClassCorrupted, "not a record"},
		{"cut", good[:len(good)-2], keys.ClassCorrupted, "not a record"},
		{"something after it", append(slices.Clone(good), '1'), keys.ClassCorrupted, "something follows"},
		{"too large", append(slices.Clone(good), make([]byte, managed.MaxRecordSize)...), keys.ClassCorrupted, "more than"},
		{"of another key", other, keys.ClassCorrupted, "of another key"},
		{"another's wrapped key, relabelled", edit(func(r *managed.Record) { r.Wrapped = foreign.Wrapped }), keys.ClassWrongKey, "authentication failed"},
		{"a changed bit", edit(func(r *managed.Record) { r.Wrapped[20] ^= 1 }), keys.ClassWrongKey, "authentication failed"},
		{"nothing wrapped", edit(func(r *managed.Record) { r.Wrapped = nil }), keys.ClassCorrupted, "0 bytes"},
		{"too much wrapped", edit(func(r *managed.Record) { r.Wrapped = make([]byte, managed.MaxWrapped+1) }), keys.ClassCorrupted, "8193 bytes"},
		{"an unknown KEK", edit(func(r *managed.Record) { r.KEK = 9 }), keys.ClassVersion, "version 9"},
		{"no KEK", edit(func(r *managed.Record) { r.KEK = 0 }), keys.ClassCorrupted, "without a key encryption key"},
		{"another format", bytes.Replace(good, []byte("/v1"), []byte("/v2"), 1), keys.ClassCorrupted, "not a record"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store.Replace(name, tc.record)
			_, err := get(t, s, "a", 0)
			wantClass(t, err, tc.want, tc.says)
		})
	}
}

// careless is a KMS that does not authenticate the context.
type careless struct{ *managedtest.KMS }

func (c careless) Wrap(ctx context.Context, key, _ []byte) ([]byte, error) {
	return c.KMS.Wrap(ctx, key, nil)
}

func (c careless) Unwrap(ctx context.Context, wrapped, _ []byte) ([]byte, error) {
	return c.KMS.Unwrap(ctx, wrapped, nil)
}

// TestBindingNeedsNoHelp: a wrapped key that was exchanged for another is refused
// even if the KMS unwraps it.
func TestBindingNeedsNoHelp(t *testing.T) {
	kms, store := careless{managedtest.NewKMS()}, managedtest.NewStore()
	s := source(t, store, kms)
	must(t, s, "a", 0)
	a := store.Names()[0]
	must(t, s, "b", 0)
	names := store.Names()
	b := names[1-slices.Index(names, a)]
	recordA, _ := store.Get(t.Context(), a)
	recordB, _ := store.Get(t.Context(), b)
	forA, errA := managed.ParseRecord(recordA)
	forB, errB := managed.ParseRecord(recordB)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	forA.Wrapped = forB.Wrapped
	swapped, err := json.Marshal(forA)
	if err != nil {
		t.Fatal(err)
	}
	store.Replace(a, swapped)
	_, err = get(t, s, "a", 0)
	wantClass(t, err, keys.ClassWrongKey, "not the one for state-disk/a version 1")
}

func TestGarbageFromTheKMS(t *testing.T) {
	for _, tc := range []struct {
		name   string
		garble func(operation string, out []byte) []byte
		want   keys.Class
		says   string
	}{
		{"unwraps too little", func(op string, out []byte) []byte {
			if op == "unwrap" {
				return out[:10]
			}
			return out
		}, keys.ClassCorrupted, "unwrapped 10 bytes"},
		{"unwraps another seed", func(op string, out []byte) []byte {
			if op == "unwrap" {
				out[len(out)-1] ^= 1
			}
			return out
		}, keys.ClassCorrupted, "something else than it had wrapped"},
		{"wraps to nothing", func(op string, out []byte) []byte { return nil }, keys.ClassCorrupted, "wrapped a key to 0 bytes"},
		{"wraps to too much", func(op string, out []byte) []byte { return make([]byte, managed.MaxWrapped+1) }, keys.ClassCorrupted, "8193 bytes"},
		{"wraps to noise", func(op string, out []byte) []byte { return make([]byte, len(out)) }, keys.ClassWrongKey, "authentication failed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			kms, store := managedtest.NewKMS(), managedtest.NewStore()
			kms.Garble = tc.garble
			_, err := get(t, source(t, store, kms), "a", 0)
			wantClass(t, err, tc.want, tc.says)
			if len(store.Names()) != 0 {
				t.Error("a key was stored that cannot be had again")
			}
		})
	}
}
