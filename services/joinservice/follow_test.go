// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/bindings/bindingstest"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// followed is a follower whose ConfigMaps are in memory.
type followed struct {
	*fixture
	*follower
	maps *bindingstest.Memory
}

func follow(t *testing.T) *followed {
	f := start(t, nil)
	maps := bindingstest.New()
	return &followed{f, newFollower(maps, f.Policy, f.Metrics, f.events, slog.New(slog.NewJSONHandler(f.log, nil))), maps}
}

// set writes a ConfigMap, whether it is there or not.
func (f *followed) set(t *testing.T, name string, data map[string]string) {
	t.Helper()
	o := &bindings.Object{Name: name, Data: data}
	if there, err := f.maps.Get(t.Context(), name); err == nil {
		o.Version = there.Version
		err = f.maps.Update(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := f.maps.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func (f *followed) parameters() map[string]string {
	c := f.Options.Cluster()
	c.Sources = append(c.Sources, "http://10.0.0.2:5000")
	return c.Data()
}

func TestFollow(t *testing.T) {
	f := follow(t)
	ctx := t.Context()
	f.look(ctx)
	if err := f.ready(); err == nil || err.Error() != "no policy is in force" {
		t.Errorf("without anything: %v", err)
	}
	said := strings.Count(f.fixture.log.String(), "\n")
	f.look(ctx)
	if n := strings.Count(f.fixture.log.String(), "\n"); n != said || said != 2 {
		t.Errorf("what is not there is said %d times, and then %d", said, n-said)
	}
	f.set(t, parameters.PolicyMap, map[string]string{parameters.FieldPolicy: string(f.document(t, true, f.usual()))})
	f.look(ctx)
	if err := f.ready(); err == nil || err.Error() != "the cluster's parameters are not known" {
		t.Errorf("without parameters: %v", err)
	}
	f.set(t, parameters.ClusterMap, f.parameters())
	f.look(ctx)
	if err := f.ready(); err != nil {
		t.Error(err)
	}
	if c := f.follower.Cluster(); len(c.Sources) != 2 || c.Endpoint != "10.0.0.1:6443" {
		t.Errorf("parameters: %+v", c)
	}
	digest := f.Policy.Digest().String()

	for name, spoil := range map[string]func(){
		"a weaker policy": func() { f.set(t, parameters.PolicyMap, map[string]string{parameters.FieldPolicy: `{}`}) },
		"without its key": func() { f.set(t, parameters.PolicyMap, nil) },
		"deleted":         func() { f.maps.Delete(parameters.PolicyMap) },
	} {
		spoil()
		f.look(ctx)
		if e := f.fixture.events.last(); !e.Warning || e.Reason != "PolicyRefused" || !strings.HasSuffix(e.Note, "What was in force before stays") {
			t.Errorf("%s: event %+v", name, e)
		}
		if line := f.lastAudit(t); line["verdict"] != "refused" || line["reason"] != "policy" {
			t.Errorf("%s: audit %v", name, line)
		}
		if f.Policy.Digest().String() != digest || f.ready() != nil {
			t.Errorf("%s: another policy is in force, or none", name)
		}
		if v := metric(t, f.Metrics, `configuration_usable{object="policy"}`); v != 0 {
			t.Errorf("%s: the metric says that it is used", name)
		}
	}
	f.set(t, parameters.PolicyMap, map[string]string{parameters.FieldPolicy: string(f.document(t, false, f.usual()))})
	f.look(ctx)
	if f.Policy.Digest().String() == digest || f.fixture.events.last().Reason != "PolicyChanged" {
		t.Error("the new policy is not in force")
	}
}

// TestFollowWithoutAPIServer: what is known stays in use; after a while the service is
// not ready.
func TestFollowWithoutAPIServer(t *testing.T) {
	f := follow(t)
	f.set(t, parameters.PolicyMap, map[string]string{parameters.FieldPolicy: string(f.document(t, true, f.usual()))})
	f.set(t, parameters.ClusterMap, f.parameters())
	f.look(t.Context())
	said := f.fixture.log.String()
	f.maps.Fault = func(context.Context, string, string) error { return errors.New("connection refused") }
	f.look(t.Context())
	if f.fixture.log.String() != said || f.ready() != nil || f.Policy.Digest() == nil {
		t.Error("that the API server is away counts as a new version")
	}
	f.looked = f.looked.Add(-2 * staleAfter)
	if err := f.ready(); err == nil || !strings.Contains(err.Error(), "the API server does not answer since") {
		t.Errorf("after a while: %v", err)
	}
}
