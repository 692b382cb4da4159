// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// leavers are a cluster's, and its etcd.
type leavers struct {
	leaving   []bindings.Leaver
	members   []string
	unhealthy bool
	trace     []string
}

func (l *leavers) Leaving(context.Context) ([]bindings.Leaver, error) {
	return slices.Clone(l.leaving), nil
}

func (l *leavers) Release(_ context.Context, who bindings.Leaver) error {
	l.trace = append(l.trace, "release "+who.Name)
	l.leaving = slices.DeleteFunc(l.leaving, func(o bindings.Leaver) bool { return o.Name == who.Name })
	return nil
}

func (l *leavers) Explain(_ context.Context, who bindings.Leaver, why string) error {
	l.trace = append(l.trace, fmt.Sprintf("explain %s: %s", who.Name, why))
	for i := range l.leaving {
		if l.leaving[i].Name == who.Name {
			l.leaving[i].Why = why
		}
	}
	return nil
}

func (l *leavers) remove(_ context.Context, node, address string) error {
	if l.unhealthy {
		return errors.New("unhealthy cluster")
	}
	l.trace = append(l.trace, "remove "+node+" at "+address)
	l.members = slices.DeleteFunc(l.members, func(o string) bool { return o == node })
	return nil
}

func (l *leavers) farewell(node string) *Farewell {
	return &Farewell{Node: node, Leavers: l, Remove: l.remove, Log: slog.New(slog.DiscardHandler)}
}

// TestFarewell: whoever leaves is no member of etcd before it is forgotten; one that
// cannot leave is told why, once; and nobody sees itself off.
func TestFarewell(t *testing.T) {
	l := &leavers{members: []string{"a", "b", "c"}, leaving: []bindings.Leaver{{Name: "b", Address: "10.77.0.11"}}, unhealthy: true}
	for range 2 {
		if err := l.farewell("a").look(t.Context()); err == nil || !strings.Contains(err.Error(), "b: etcd: unhealthy cluster") {
			t.Fatal(err)
		}
	}
	l.unhealthy = false
	if err := l.farewell("b").look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.farewell("a").look(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"explain b: etcd: unhealthy cluster", "remove b at 10.77.0.11", "release b"}
	if !slices.Equal(l.trace, want) || !slices.Equal(l.members, []string{"a", "c"}) || len(l.leaving) != 0 {
		t.Errorf("it happened %q, want %q; members are %v", l.trace, want, l.members)
	}
}

// TestFarewellGoesOn: what fails is tried again.
func TestFarewellGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leavers{members: []string{"a", "b"}, leaving: []bindings.Leaver{{Name: "b"}}, unhealthy: true}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.farewell("a").Run(ctx)
		}()
		synctest.Wait()
		if len(l.leaving) == 0 {
			t.Error("it was let go at once")
		}
		l.unhealthy = false
		time.Sleep(leaveEvery)
		synctest.Wait()
		if len(l.leaving) != 0 {
			t.Errorf("still there: %+v", l.leaving)
		}
		cancel()
		<-done
	})
}
