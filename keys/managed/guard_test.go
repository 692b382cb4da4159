// SPDX-License-Identifier: Apache-2.0

package managed_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
)

func TestRetries(t *testing.T) {
	for class, want := range map[keys.Class]int{
		keys.ClassUnreachable: 3, keys.ClassTimeout: 3, keys.ClassThrottled: 3,
		keys.ClassNotPermitted: 1, keys.ClassKeyMissing: 1, keys.ClassKeyDisabled: 1, keys.ClassWrongKey: 1, keys.ClassInternal: 1,
	} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kms := managedtest.NewKMS()
				failures := 0
				kms.Fault = func(context.Context, string) error {
					if failures++; failures <= 2 {
						return keys.Errorf(class, "for now")
					}
					return nil
				}
				_, err := managed.Guard(kms, managed.DefaultLimits()).Wrap(t.Context(), []byte("key"), nil)
				if n := kms.Calls("wrap"); n != want {
					t.Errorf("tried %d times, want %d", n, want)
				}
				if want == 1 {
					wantClass(t, err, class, "wrap: "+string(class)+": for now")
				} else if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestTotalDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms := managedtest.NewKMS()
		kms.Fault = func(context.Context, string) error { return keys.Errorf(keys.ClassThrottled, "too many") }
		began := time.Now()
		_, err := managed.Guard(kms, managed.DefaultLimits()).Unwrap(t.Context(), nil, nil)
		wantClass(t, err, keys.ClassThrottled, "too many")
		if took := time.Since(began); took > 10*time.Second || took < 8*time.Second {
			t.Errorf("took %v", took)
		}
		if n := kms.Calls("unwrap"); n < 8 || n > 30 {
			t.Errorf("%d attempts", n)
		}
	})
}

// TestHangingKMS: one that ignores contexts, as PKCS#11 modules do, does not
// keep callers, nor pile up calls; and is asked again once it is back.
func TestHangingKMS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms := managedtest.NewKMS()
		back := make(chan struct{})
		var mu sync.Mutex
		underWay, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			underWay += n
			most = max(most, underWay)
		}
		kms.Fault = func(context.Context, string) error {
			count(1)
			defer count(-1)
			<-back
			return nil
		}
		limits := managed.DefaultLimits()
		guarded := managed.Guard(kms, limits)
		results := make(chan error, 1000)
		for range cap(results) {
			go func() {
				_, err := guarded.Wrap(t.Context(), []byte("key"), nil)
				results <- err
			}()
		}
		began := time.Now()
		classes := map[keys.Class]int{}
		for range cap(results) {
			classes[keys.ClassOf(<-results)]++
		}
		if took := time.Since(began); took > limits.Total {
			t.Errorf("callers waited %v", took)
		}
		if most != limits.Concurrent {
			t.Errorf("%d calls were under way", most)
		}
		if classes[""] != 0 || classes[keys.ClassInternal] != 0 {
			t.Errorf("classes %v", classes)
		}

		// The circuit is open: nobody waits.
		began = time.Now()
		_, err := guarded.Wrap(t.Context(), []byte("key"), nil)
		wantClass(t, err, keys.ClassUnreachable, "left alone")
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		close(back)
		time.Sleep(limits.Cooldown)
		if _, err := guarded.Wrap(t.Context(), []byte("key"), nil); err != nil {
			t.Errorf("not asked again: %v", err)
		}
	})
}

// TestHealthWhileCallsHang: who asks how the KMS is, learns that it hangs.
func TestHealthWhileCallsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms := managedtest.NewKMS()
		back := make(chan struct{})
		kms.Fault = func(context.Context, string) error { <-back; return nil }
		limits := managed.DefaultLimits()
		limits.Failures = limits.Concurrent + 1 // the circuit is still closed
		guarded := managed.Guard(kms, limits)
		ctx, cancel := context.WithTimeout(context.Background(), limits.Attempt)
		defer cancel()
		for range limits.Concurrent {
			go guarded.Wrap(ctx, []byte("key"), nil)
		}
		synctest.Wait()
		answer := make(chan error, 1)
		began := time.Now()
		go func() { answer <- guarded.Health(context.Background()) }()
		select {
		case err := <-answer:
			wantClass(t, err, keys.ClassThrottled, "16 calls were under way already")
			if took := time.Since(began); took > limits.Total {
				t.Errorf("took %v", took)
			}
		case <-time.After(time.Hour):
			t.Error("no answer in an hour")
		}
		close(back)
		synctest.Wait()
	})
}

func TestOneFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms := managedtest.NewKMS()
		kms.Fault = func(context.Context, string) error { return keys.Errorf(keys.ClassUnreachable, "down") }
		limits := managed.DefaultLimits()
		guarded := managed.Guard(kms, limits)
		for range limits.Failures {
			wantClass(t, guarded.Health(t.Context()), keys.ClassUnreachable, "down")
		}
		wantClass(t, guarded.Health(t.Context()), keys.ClassUnreachable, "left alone")
		time.Sleep(limits.Cooldown)
		release := make(chan struct{})
		kms.Fault = func(context.Context, string) error { <-release; return nil }
		probe := make(chan error)
		go func() { probe <- guarded.Health(t.Context()) }()
		synctest.Wait()
		wantClass(t, guarded.Health(t.Context()), keys.ClassUnreachable, "left alone")
		close(release)
		if err := errors.Join(<-probe, guarded.Health(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// TestImpatientCallers do not make a good KMS look bad.
func TestImpatientCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kms := managedtest.NewKMS()
		kms.Fault = func(ctx context.Context, _ string) error {
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		guarded := managed.Guard(kms, managed.DefaultLimits())
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := guarded.Wrap(ctx, []byte("key"), nil)
			wantClass(t, err, keys.ClassTimeout, "no answer after 1ms")
			cancel()
		}
		if _, err := guarded.Wrap(t.Context(), []byte("key"), nil); err != nil {
			t.Error(err)
		}
	})
}

// TestLostAnswer: a record that was stored although the answer was lost is found.
func TestLostAnswer(t *testing.T) {
	store := &forgetful{Store: managedtest.NewStore()}
	limits := managed.DefaultLimits()
	limits.FirstPause = 0
	s := source(t, managed.GuardStore(store, limits), managedtest.NewKMS())
	first := must(t, s, "a", 0)
	if again := must(t, s, "a", 1); !first.Equal(again.Secret) {
		t.Error("the key that was handed out is not the one that was stored")
	}
}

// forgetful loses its first answer to Create.
type forgetful struct {
	*managedtest.Store
	lost bool
}

func (f *forgetful) Create(ctx context.Context, name string, record []byte) error {
	err := f.Store.Create(ctx, name, record)
	if !f.lost {
		f.lost = true
		return keys.Errorf(keys.ClassUnreachable, "the connection broke")
	}
	return err
}

func TestBackends(t *testing.T) {
	b := managed.Backends{
		KMS: map[string]func(context.Context, string) (managed.KMS, error){
			"memory": func(context.Context, string) (managed.KMS, error) { return managedtest.NewKMS(), nil },
		},
	}
	if _, err := b.OpenKMS(t.Context(), "MEMORY:x"); err != nil {
		t.Error(err)
	}
	for uri, says := range map[string]string{
		"":                           "starts with memory:",
		"memory":                     "starts with memory:",
		"me@host:80":                 "starts with memory:",
		"pass=word:x":                "starts with memory:",
		"other:x":                    `no KMS of kind "other"`,
		"memory://me:secret@host/x":  "credentials do not belong into a URI",
		"https://token@host/x?a=b@c": "credentials do not belong into a URI",
	} {
		_, err := b.OpenKMS(t.Context(), uri)
		wantClass(t, err, keys.ClassInvalid, says)
	}
	_, err := b.OpenStore(t.Context(), "memory:x")
	wantClass(t, err, keys.ClassInvalid, `no store of kind "memory"`)
}

func TestQuery(t *testing.T) {
	q, err := managed.Query("a=1&b=x%20y", "a", "b", "c")
	if err != nil || q["a"] != "1" || q["b"] != "x y" || len(q) != 2 {
		t.Errorf("got %v, %v", q, err)
	}
	for query, says := range map[string]string{
		"d=secret":  `no "d"; known are a, b`,
		"a=1&a=2":   `"a" 2 times`,
		"a=%zz":     "cannot be parsed",
		"a=1;b=sec": "cannot be parsed",
	} {
		_, err := managed.Query(query, "a", "b")
		wantClass(t, err, keys.ClassInvalid, says)
	}
}
