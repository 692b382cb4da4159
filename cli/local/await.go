// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/config"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// askEvery is how often a machine, and the API server, is asked how far it is. The
// answers cost processor time that the machines could use.
const askEvery = 2 * time.Second

// watch is what is known of the machines on their way to become nodes.
type watch struct {
	report   *progress.Reporter
	verifier attestation.Verifier

	mu      sync.Mutex
	members map[string]bool   // they say so themselves, since they booted
	said    map[string]string // what was last shown of each
	refused error
}

// say shows what a machine is at, unless it was just shown.
func (w *watch) say(name, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said[name] != text {
		w.said[name] = text
		w.report.Updatef(name, "%s", text)
	}
}

// follow asks a machine how far it is until it is a member of the cluster. It is verified
// first: what another than the right image says is not worth showing.
func (w *watch) follow(ctx context.Context, name, address string) {
	node, err := cluster.Connect(ctx, address, w.verifier, nil, nil)
	if err != nil {
		if ctx.Err() == nil {
			w.mu.Lock()
			w.refused = fmt.Errorf("%s: %w", name, err)
			w.mu.Unlock()
		}
		return
	}
	defer node.Close()
	for {
		if s, err := node.Ask(ctx); err == nil {
			if s.State == api.State_STATE_MEMBER {
				w.mu.Lock()
				w.members[name] = true
				w.mu.Unlock()
				return
			}
			w.say(name, "%s", cluster.Sentence(s))
		}
		if pause(ctx, askEvery) != nil {
			return
		}
	}
}

// trustOf is what the machines of a folder's cluster are verified by.
func trustOf(dir supervisor.Dir) (cluster.Trust, error) {
	c, err := cluster.ReadConfig(filepath.Join(string(dir), config.DefaultFile))
	if err != nil {
		return cluster.Trust{}, err
	}
	ring, err := keys.Load(filepath.Join(string(dir), clikeys.DefaultFile))
	if err != nil {
		return cluster.Trust{}, err
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		return cluster.Trust{}, err
	}
	return cluster.LoadTrust(c, id[:])
}

// trust is what the machines of the cluster are verified by.
func (u *up) trust() (cluster.Trust, attestation.Verifier, error) {
	trust, err := trustOf(u.dir)
	if err != nil {
		return trust, nil, err
	}
	verifier := cluster.Trust.Verifier
	if u.options.Verifier != nil {
		verifier = u.options.Verifier
	}
	v, err := verifier(trust)
	return trust, v, err
}

// awaitNodes waits until every machine is a node that is ready: by its own word, since an
// API server that comes back remembers how nodes were, and by the API server's.
func (u *up) awaitNodes(ctx context.Context, spec *supervisor.Spec) error {
	_, v, err := u.trust()
	if err != nil {
		return err
	}
	k, err := newKube(u.path(cluster.DefaultKubeconfig))
	if err != nil {
		return err
	}
	w := &watch{report: u.report, verifier: v, members: map[string]bool{}, said: map[string]string{}}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	wanted := u.wanted(spec)
	for _, m := range wanted {
		u.report.Begin(m.Name, "to become a node that is ready")
	}
	since := map[string]time.Time{}
	left := len(wanted)
	for ready := map[string]bool{}; ; {
		s, err := u.running(ctx)
		if err != nil {
			return err
		}
		for _, m := range s.Machines {
			if u.off[m.Name] {
				continue
			}
			if m.State != supervisor.StateRunning {
				w.say(m.Name, "%s", stateOf(m))
			} else if since[m.Name] != m.Since {
				since[m.Name] = m.Since // it has booted, or booted again: what it was does not count
				w.mu.Lock()
				delete(w.members, m.Name)
				w.mu.Unlock()
				following.Go(func() { w.follow(ctx, m.Name, bootstrapperOf(m)) })
			}
		}
		if left -= u.countReady(ctx, k, w, wanted, ready); left == 0 {
			return nil
		}
		w.mu.Lock()
		refused := w.refused
		w.mu.Unlock()
		if refused != nil {
			return refused
		}
		if err := pause(ctx, askEvery/2); err != nil {
			return fmt.Errorf("%w: %s", err, w.lacking(wanted, ready))
		}
	}
}

// countReady counts the nodes that were found ready this time.
func (u *up) countReady(ctx context.Context, k *kube, w *watch, machines []supervisor.MachineSpec, ready map[string]bool) (n int) {
	nodes, err := k.nodes(ctx)
	for _, m := range machines {
		w.mu.Lock()
		member := w.members[m.Name]
		w.mu.Unlock()
		lacks, known := nodes[m.Name]
		switch {
		case !member || ready[m.Name]:
		case err != nil:
			w.say(m.Name, "the API server does not answer: %v", err)
		case !known:
			w.say(m.Name, "the API server knows no such node")
		case lacks != "":
			w.say(m.Name, "%s", lacks)
		default:
			u.report.End(m.Name, progress.Done, "the node is ready")
			ready[m.Name], n = true, n+1
		}
	}
	return n
}

// lacking says what was last known of the machines that are not ready.
func (w *watch) lacking(machines []supervisor.MachineSpec, ready map[string]bool) (text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range machines {
		if !ready[m.Name] {
			text += fmt.Sprintf("\n  %s: %s", m.Name, w.said[m.Name])
		}
	}
	return text
}

// bootstrapperOf is where a machine's bootstrapper is reached.
func bootstrapperOf(m supervisor.MachineStatus) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(m.Port)))
}

// stateOf is a machine's state in words.
func stateOf(m supervisor.MachineStatus) string {
	if m.Stage == "" {
		return string(m.State)
	}
	return string(m.State) + ": " + m.Stage
}
