// SPDX-License-Identifier: Apache-2.0

package managed_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
)

var salt = bytes.Repeat([]byte("salt"), 8)

func source(t testing.TB, store managed.Store, keks ...managed.KMS) *managed.Source {
	t.Helper()
	c := managed.Config{Salt: salt, Store: store, KEKs: map[keys.Version]managed.KMS{}}
	for i, k := range keks {
		if k != nil {
			c.KEKs[keys.Version(i+1)] = k
		}
	}
	s, err := managed.NewSource(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t testing.TB, s *managed.Source, id string, version keys.Version) (*keys.Key[keys.StateDisk], error) {
	t.Helper()
	return keys.Get[keys.StateDisk](t.Context(), s, id, 32, version)
}

func must(t testing.TB, s *managed.Source, id string, version keys.Version) *keys.Key[keys.StateDisk] {
	t.Helper()
	k, err := get(t, s, id, version)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantClass(t testing.TB, err error, want keys.Class, says string) {
	t.Helper()
	if got := keys.ClassOf(err); got != want {
		t.Errorf("got class %q (%v), want %q", got, err, want)
	}
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%q does not say %q", err, says)
	}
}

func TestSameKeyAgain(t *testing.T) {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	first := must(t, source(t, store, kms), "a", 0)
	again := must(t, source(t, store, kms), "a", 0) // after a restart
	byVersion := must(t, source(t, store, kms), "a", first.Version)
	if !first.Equal(again.Secret) || !first.Equal(byVersion.Secret) || first.Version != 1 {
		t.Error("the same question has different answers")
	}
	if other := must(t, source(t, store, kms), "b", 0); other.Equal(first.Secret) {
		t.Error("another id, the same key")
	}
	if n := len(store.Names()); n != 2 {
		t.Errorf("%d records", n)
	}
}

func TestRotation(t *testing.T) {
	one, two, store := managedtest.NewKMS(), managedtest.NewKMS(), managedtest.NewStore()
	old := must(t, source(t, store, one), "a", 0)
	identity, err := keys.Get[keys.Measurement](t.Context(), source(t, store, one), keys.MeasurementID, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	both := source(t, store, one, two)
	fresh := must(t, both, "a", 0)
	if fresh.Version != 2 || fresh.Equal(old.Secret) {
		t.Errorf("version %d after the rotation, same key: %v", fresh.Version, fresh.Equal(old.Secret))
	}
	if again := must(t, both, "a", 1); !again.Equal(old.Secret) || again.Version != 1 {
		t.Error("the old version is another key")
	}
	if m, err := keys.Get[keys.Measurement](t.Context(), both, keys.MeasurementID, 32, 0); err != nil || !m.Equal(identity.Secret) || m.Version != 1 {
		t.Errorf("the measurement secret changed: %v", err)
	}
	_, err = get(t, source(t, store, nil, two), "a", 1)
	wantClass(t, err, keys.ClassVersion, "version 1 of the key encryption key, which is retired")
	_, err = get(t, both, "a", 3)
	wantClass(t, err, keys.ClassVersion, "no version 3")
	_, err = keys.Get[keys.Measurement](t.Context(), both, keys.MeasurementID, 32, 2)
	wantClass(t, err, keys.ClassVersion, "version 1 only")
}

// TestNoNewKeyForAnOldThing: whoever names a version has something that is
// encrypted already.
func TestNoNewKeyForAnOldThing(t *testing.T) {
	store := managedtest.NewStore()
	_, err := get(t, source(t, store, managedtest.NewKMS()), "a", 1)
	wantClass(t, err, keys.ClassMissing, "no such record")
	if len(store.Names()) != 0 {
		t.Error("a key was made")
	}
}

// TestManyAtOnce: several processes, many callers each, one new key.
func TestManyAtOnce(t *testing.T) {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	const processes, callers = 4, 250
	got := make(chan string, processes*callers)
	var wg sync.WaitGroup
	for range processes {
		s := source(t, store, kms)
		for range callers {
			wg.Go(func() {
				k, err := s.DataKey(context.Background(), keys.PurposeStateDisk, "a", 32, 0)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- string(k.Secret.Copy())
			})
		}
	}
	wg.Wait()
	close(got)
	answers := map[string]int{}
	for a := range got {
		answers[a]++
	}
	if len(answers) != 1 || len(store.Names()) != 1 {
		t.Errorf("%d different answers, %d records", len(answers), len(store.Names()))
	}
}

func TestFaultsAreToldApart(t *testing.T) {
	for _, class := range []keys.Class{
		keys.ClassUnreachable, keys.ClassTimeout, keys.ClassThrottled, keys.ClassNotPermitted,
		keys.ClassKeyMissing, keys.ClassKeyDisabled, keys.ClassWrongKey,
	} {
		fault := func(context.Context, string) error { return keys.Errorf(class, "as the test wants") }
		t.Run(string(class), func(t *testing.T) {
			kms, store := managedtest.NewKMS(), managedtest.NewStore()
			must(t, source(t, store, kms), "a", 0)
			kms.Fault = fault
			_, err := get(t, source(t, store, kms), "a", 0)
			wantClass(t, err, class, "KMS: "+string(class)+": as the test wants")
			kms.Fault, store.Fault = nil, fault
			_, err = get(t, source(t, store, kms), "a", 0)
			wantClass(t, err, class, "store: "+string(class)+": as the test wants")
		})
	}
}

// TestConflictingWrite: the store says that somebody else was first, and then
// has nothing, or cannot be asked.
func TestConflictingWrite(t *testing.T) {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	store.Fault = func(_ context.Context, op string) error {
		if op == "create" {
			return keys.Errorf(keys.ClassExists, "conflict")
		}
		return nil
	}
	_, err := get(t, source(t, store, kms), "a", 0)
	wantClass(t, err, keys.ClassMissing, "no such record")
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms, store := managedtest.NewKMS(), managedtest.NewStore()
		s, err := managed.NewSource(managed.Config{
			Salt: salt, Store: store, KEKs: map[keys.Version]managed.KMS{1: kms}, CacheLife: time.Minute, CacheSize: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		first := must(t, s, "a", 0)
		down := func(context.Context, string) error { return keys.Errorf(keys.ClassUnreachable, "down") }
		kms.Fault, store.Fault = down, down
		time.Sleep(59 * time.Second)
		if again := must(t, s, "a", 1); !again.Equal(first.Secret) {
			t.Error("the cache has another key")
		}
		time.Sleep(2 * time.Second)
		_, err = get(t, s, "a", 1)
		wantClass(t, err, keys.ClassUnreachable, "down")

		kms.Fault, store.Fault = nil, nil
		for _, id := range []string{"a", "b", "c"} {
			must(t, s, id, 0)
			time.Sleep(time.Second)
		}
		kms.Fault, store.Fault = down, down
		_, err = get(t, s, "a", 0)
		wantClass(t, err, keys.ClassUnreachable, "down") // it made way
		must(t, s, "b", 0)
		must(t, s, "c", 0)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_, err = get(t, s, "c", 0)
		wantClass(t, err, keys.ClassUnreachable, "down")
	})
}

// TestCallerLeaves: the work goes on for those who wait.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms, store := managedtest.NewKMS(), managedtest.NewStore()
		kms.Fault = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s := source(t, store, kms)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := s.DataKey(ctx, keys.PurposeStateDisk, "a", 32, 0)
		wantClass(t, err, keys.ClassTimeout, "the caller did not wait")
		must(t, s, "a", 0)
		if n := kms.Calls("wrap"); n != 1 {
			t.Errorf("wrapped %d times", n)
		}
	})
}

func TestConfigs(t *testing.T) {
	kms, store := managedtest.NewKMS(), managedtest.NewStore()
	for says, c := range map[string]managed.Config{
		"salt has 0 bytes":  {Store: store, KEKs: map[keys.Version]managed.KMS{1: kms}},
		"a store and a key": {Salt: salt, KEKs: map[keys.Version]managed.KMS{1: kms}},
		"start at 1":        {Salt: salt, Store: store, KEKs: map[keys.Version]managed.KMS{0: kms}},
	} {
		_, err := managed.NewSource(c)
		wantClass(t, err, keys.ClassInvalid, says)
	}
	_, err := managed.NewSource(managed.Config{Salt: salt, Store: store})
	wantClass(t, err, keys.ClassInvalid, "a store and a key")
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"format":"constellation-wrapped-key/v1","purpose":"state-disk","id":"a","version":1,"kek":1,"wrapped":"AAAA"}`))
	f.Add([]byte(`{"format":"constellation-wrapped-key/v1","kek":4294967296}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := managed.ParseRecord(data)
		if err != nil && keys.ClassOf(err) != keys.ClassCorrupted {
			t.Fatal(err)
		}
		if err == nil && (r.KEK == 0 || len(r.Wrapped) == 0 || len(r.Wrapped) > managed.MaxWrapped) {
			t.Fatalf("%+v", r)
		}
	})
}

// BenchmarkOverhead is what user-managed mode adds to the backends' own calls.
func BenchmarkOverhead(b *testing.B) {
	for _, cached := range []bool{false, true} {
		b.Run(fmt.Sprintf("cache=%v", cached), func(b *testing.B) {
			kms := managed.Guard(managedtest.NewKMS(), managed.DefaultLimits())
			store := managed.GuardStore(managedtest.NewStore(), managed.DefaultLimits())
			c := managed.Config{Salt: salt, Store: store, KEKs: map[keys.Version]managed.KMS{1: kms}}
			if cached {
				c.CacheLife, c.CacheSize = time.Hour, 10
			}
			s, err := managed.NewSource(c)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				k, err := s.DataKey(b.Context(), keys.PurposeStateDisk, "a", 32, 0)
				if err != nil {
					b.Fatal(err)
				}
				k.Secret.Wipe()
			}
		})
	}
}
