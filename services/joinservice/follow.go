// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/constellation-os/constellation/services/audit"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// followPause is how long a change takes to be noticed, at most.
const followPause = 5 * time.Second

// staleAfter is how long the API server may be away until the service is not ready.
const staleAfter = 30 * time.Second

// reader reads objects.
type reader interface {
	Get(ctx context.Context, name string) (*bindings.Object, error)
}

// follower keeps the policy and the cluster's parameters up to date. A new version that
// cannot be used is said to be, once, and the old one stays in use.
type follower struct {
	objects reader
	policy  *Policy
	metrics *Metrics
	events  Recorder
	log     *audit.Log

	mu      sync.Mutex
	cluster *parameters.Cluster
	seen    map[string]string // version of each object
	looked  time.Time         // when the API server last answered
}

func newFollower(objects reader, p *Policy, m *Metrics, events Recorder, log *slog.Logger) *follower {
	return &follower{
		objects: objects, policy: p, metrics: m, events: events, log: audit.New(log), seen: map[string]string{},
	}
}

// Cluster is what is known of it, nil if nothing.
func (f *follower) Cluster() *parameters.Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cluster
}

// ready says why joins cannot work, nil if they can.
func (f *follower) ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.policy.Digest() == nil:
		return errors.New("no policy is in force")
	case f.cluster == nil:
		return errors.New("the cluster's parameters are not known")
	case time.Since(f.looked) > staleAfter:
		return fmt.Errorf("the API server does not answer since %s", f.looked.UTC().Format(time.RFC3339))
	}
	return nil
}

// run looks again and again until the context ends.
func (f *follower) run(ctx context.Context) {
	ticker := time.NewTicker(followPause)
	defer ticker.Stop()
	for {
		f.look(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// look reads both objects once.
func (f *follower) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, followPause)
	defer cancel()
	f.follow(ctx, kindPolicy, parameters.PolicyMap, func(data map[string]string) (string, error) {
		if err := f.policy.Load([]byte(data[parameters.FieldPolicy])); err != nil {
			return "", err
		}
		return f.policy.Digest().String(), nil
	})
	f.follow(ctx, kindCluster, parameters.ClusterMap, func(data map[string]string) (string, error) {
		c, err := parameters.Parse(data)
		if err != nil {
			return "", err
		}
		f.mu.Lock()
		f.cluster = c
		f.mu.Unlock()
		return c.Endpoint, nil
	})
}

func (f *follower) follow(ctx context.Context, kind, name string, use func(map[string]string) (string, error)) {
	o, err := f.objects.Get(ctx, name)
	version := ""
	switch {
	case errors.Is(err, bindings.ErrNotFound):
		err = fmt.Errorf("there is no ConfigMap %s/%s", parameters.Namespace, name)
	case err != nil:
		if ctx.Err() == nil {
			slog.WarnContext(ctx, "the API server does not answer", "object", name, "error", err)
		}
		return
	default:
		version = o.Version
	}
	f.mu.Lock()
	f.looked = time.Now()
	last, known := f.seen[name]
	f.seen[name] = version
	f.mu.Unlock()
	if known && last == version {
		return
	}
	what := ""
	if err == nil {
		what, err = use(o.Data)
	}
	f.tell(ctx, kind, version, what, err)
}

// tell says what became of a new version.
func (f *follower) tell(ctx context.Context, kind, version, what string, err error) {
	f.metrics.load(kind, err)
	attribute := slog.String("version", version)
	if err != nil {
		f.log.Refused(ctx, kind, "", false, kind, err, attribute)
		f.events.Record(Event{Warning: true, Reason: eventReason(kind, false), Note: fmt.Sprintf("%v. What was in force before stays", err)})
		return
	}
	f.log.Granted(ctx, kind, attribute, slog.String("now", what))
	f.events.Record(Event{Reason: eventReason(kind, true), Note: "now " + what})
}
