// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
)

var errKilled = errors.New("killed")

// machine is a machine on which everything can be cut off at any moment. What is
// done with it goes through do.
type machine struct {
	calls int
	// At the call with this number the process is killed, or the call fails, before or
	// after it had its effect.
	at            int
	after, killed bool
	fails         bool // the process lives on
	trace         []string
	// A service that systemd does not start, and says nothing of.
	silent string

	// Gone after a power cut.
	pcr     measurements.Digests
	opened  bool
	mounted bool
	units   map[string]bool
	memory  map[string]string
	boot    *journal.Record
	loaded  bool
	ready   int // how often the API server was asked since kubelet runs

	// On the disk.
	uuid       string
	key        []byte
	record     *journal.Record
	node       string  // the node's record: of which request it is
	ticket     *ticket // of a worker
	generation disk.Generation
	next       disk.Generation   // that which it is about to have
	kubernetes map[string]string // what kubeadm made; "" is a file that a power cut has emptied
	synced     map[string]string
	fetched    bool
	finished   bool
	applied    bool
	member     journal.Opened // the disk that the cluster knows to be this machine's

	// How often something happened that must not happen twice, and what must not happen at all.
	extends, formats, made int
	wrong                  []string
}

func newMachine() *machine {
	m := &machine{kubernetes: map[string]string{}, synced: map[string]string{}}
	m.off()
	return m
}

// off cuts the machine's power, and boots it.
func (m *machine) off() {
	m.pcr, m.opened, m.mounted, m.loaded, m.boot, m.ready, m.extends = measurements.Digests{}, false, false, false, nil, 0, 0
	for _, a := range measurements.Algorithms() {
		m.pcr[a] = a.Zero()
	}
	m.units, m.memory = map[string]bool{}, map[string]string{}
	// What was not brought to the disk is there, and empty.
	for name := range m.kubernetes {
		m.kubernetes[name] = m.synced[name]
	}
}

// do has an effect, unless the process is killed before, or the call fails.
func (m *machine) do(what string, effect func() error) error {
	if m.killed {
		return errKilled
	}
	m.calls++
	m.trace = append(m.trace, what)
	hit := m.calls == m.at
	if hit && !m.after {
		m.killed = !m.fails
		return errKilled
	}
	if err := effect(); err != nil {
		return err
	}
	if hit {
		m.killed = !m.fails
		return errKilled
	}
	return nil
}

// must notes what must not be.
func (m *machine) must(ok bool, what string) {
	if !ok {
		m.wrong = append(m.wrong, what)
	}
}

func (m *machine) Read(context.Context) (values measurements.Digests, err error) {
	return values, m.do("read PCR 15", func() error { values = maps.Clone(m.pcr); return nil })
}

func (m *machine) Extend(_ context.Context, digests measurements.Digests) error {
	return m.do("extend PCR 15", func() error {
		for a, d := range digests {
			m.pcr[a] = a.Extend(m.pcr[a], d)
		}
		m.extends++
		m.must(m.extends == 1, "PCR 15 was extended twice")
		return nil
	})
}

func (m *machine) locked() bool {
	return string(m.pcr[measurements.SHA256]) != string(measurements.SHA256.Zero())
}

func (m *machine) Current(context.Context) (uuid string, err error) {
	return uuid, m.do("ask for the disk", func() error {
		if m.opened {
			uuid = m.uuid
		}
		return nil
	})
}

func (m *machine) Inspect(context.Context) (r *diskmapper.InspectResponse, err error) {
	return r, m.do("inspect the disk", func() error {
		r = &diskmapper.InspectResponse{Kind: diskmapper.Kind_KIND_FRESH, Size: 1 << 30}
		if m.uuid != "" {
			r.Kind, r.Uuid = diskmapper.Kind_KIND_OURS, m.uuid
		}
		return nil
	})
}

func (m *machine) Open(ctx context.Context, key []byte, uuid string, w disk.Witness) error {
	if uuid != "" {
		if err := m.do("format the disk", func() error {
			m.must(m.locked(), "the disk was formatted before PCR 15 was extended")
			m.formats++
			m.uuid, m.key, m.generation = uuid, append([]byte(nil), key...), disk.Generation{}
			m.next = disk.Generation{}
			return nil
		}); err != nil {
			return err
		}
	}
	return m.do("open the disk", func() error {
		if string(m.key) != string(key) {
			return errors.New("unauthentic")
		}
		// What is about to come is on the disk before the witness is asked (package disk).
		if m.next == (disk.Generation{}) {
			m.next = m.generation.After()
		}
		if err := w.Advance(ctx, m.uuid, m.generation, m.next); err != nil {
			return err
		}
		m.must(m.locked(), "the disk was opened before PCR 15 was extended")
		m.opened, m.generation, m.next = true, m.next, disk.Generation{}
		return nil
	})
}

func (m *machine) Problem(err error) *diskmapper.Problem {
	if err != nil && strings.Contains(err.Error(), "unauthentic") {
		return &diskmapper.Problem{Reason: diskmapper.Problem_REASON_HEADER, HeaderReason: "unauthentic"}
	}
	return nil
}

func (m *machine) Start(_ context.Context, unit string) error {
	return m.do("start "+unit, func() error {
		switch unit {
		case m.silent:
		case StateDiskTarget:
			m.must(m.opened, "mounted before it was open")
			m.mounted = true
		case ContainerdService, SecretsProviderService:
			m.must(m.mounted, unit+" started before the state disk was mounted")
			m.units[unit] = true
		case KubeadmFilesService:
			return m.kubeadmFiles()
		case KubeletService:
			_, gate := m.memory[KubeletGate]
			m.must(gate, "kubelet started before its gate was there")
			for name, content := range m.kubernetes {
				m.must(content != "" && m.synced[name] == content, "kubelet started while "+name+" was not on the disk")
			}
			m.must(len(m.kubernetes) > 0, "kubelet started without files")
			m.must(m.ticket != nil || m.kubernetes["kubelet.conf"] == renewable, "kubelet cannot renew its certificate")
			m.must((m.units[SecretsProviderService] || m.ticket != nil) && m.units[ContainerdService], "kubelet started before what it needs")
			m.units[unit] = true
		case KubeadmFinishService:
			m.must(m.ready > 1, "kubeadm finished before the API server was ready")
			m.finished = true
		default:
			m.must(false, "unknown unit "+unit)
		}
		return nil
	})
}

// kubeadmFiles is kubeadm: it keeps what is there, and fails over what is broken.
func (m *machine) kubeadmFiles() error {
	m.made++
	_, configured := m.memory[kubeadmConfig]
	m.must(configured, "kubeadm ran without its configuration")
	m.must(!m.units[KubeletService], "kubeadm made files while kubelet ran")
	for _, name := range []string{"pki/ca.crt", "admin.conf", "kubelet.conf", "manifests/etcd.yaml"} {
		if content, ok := m.kubernetes[name]; ok && content == "" {
			return fmt.Errorf("%s is there and cannot be read", name)
		}
		if m.kubernetes[name] == "" {
			m.kubernetes[name] = fmt.Sprintf("made in run %d", m.made)
		}
	}
	return nil
}

func (m *machine) Active(_ context.Context, unit string) (active bool, state string, err error) {
	return active, "inactive, dead", m.do("ask for "+unit, func() error { active = m.units[unit]; return nil })
}

func (m *machine) Write(path string, content []byte) (outcome Outcome, err error) {
	return outcome, m.do("write "+path, func() error {
		if m.memory[path] == string(content) {
			outcome = Skipped
		}
		m.memory[path] = string(content)
		return nil
	})
}

func (m *machine) Empty() error {
	return m.do("empty /etc/kubernetes", func() error {
		m.must(m.mounted, "emptied before it was mounted")
		m.must(m.record == nil || len(m.record.Marks) == 0, "a control plane's files were removed")
		clear(m.kubernetes)
		return nil
	})
}

// renewable is the content of kubelet.conf when it names a certificate's file.
const renewable = "renewable"

func (m *machine) Renewable() error {
	return m.do("make kubelet's certificate renewable", func() error {
		m.must(m.kubernetes["kubelet.conf"] != "", "kubeadm has not made it")
		m.must(!m.units[KubeletService], "changed what kubelet has read")
		m.kubernetes["kubelet.conf"] = renewable
		return nil
	})
}

func (m *machine) Certify() (outcome Outcome, err error) {
	return outcome, m.do("certify", func() error {
		m.must(m.kubernetes["pki/ca.crt"] != "", "certified without an authority")
		if m.memory["tls"] != "" {
			outcome = Skipped
		}
		m.memory["tls"] = "certificate"
		return nil
	})
}

func (m *machine) Fetch(_ context.Context, report Report) (outcome Outcome, err error) {
	report("kubelet", 1, 2)
	return outcome, m.do("fetch", func() error {
		m.must(m.mounted, "fetched before the state disk was mounted")
		if m.fetched {
			outcome = Skipped
		}
		m.fetched = true
		return nil
	})
}

func (m *machine) Load(context.Context) error {
	return m.do("load", func() error {
		m.must(m.fetched && m.units[ContainerdService], "loaded too early")
		m.loaded = true
		return nil
	})
}

func (m *machine) Ready(context.Context) error {
	return m.do("ask the API server", func() error {
		if !m.units[KubeletService] {
			return errors.New("connection refused")
		}
		if m.ready++; m.ready == 1 {
			return errors.New("it is not ready: etcd")
		}
		return nil
	})
}

func (m *machine) NodeReady(context.Context) error {
	return m.do("ask for the node", func() error {
		if !m.applied {
			return errors.New("NetworkReady=false")
		}
		return nil
	})
}

func (m *machine) Apply(context.Context, Report) error {
	return m.do("apply", func() error {
		m.must(m.ready > 1, "applied before the API server was ready")
		m.applied = true
		return nil
	})
}

// members is the cluster's list; the journal knows which disk is open.
type members struct {
	*machine
	journal *journal.Journal
}

func (m members) Enter(context.Context) (outcome Outcome, err error) {
	return outcome, m.do("enter", func() error {
		m.must(m.applied, "entered before there was a place for it")
		o := m.journal.Opened()
		if o == nil {
			return errors.New("the journal knows no disk")
		}
		if m.member == *o {
			outcome = Skipped
		}
		m.member = *o
		return nil
	})
}

func (m *machine) Await(context.Context, Report) error {
	return m.do("await", func() error {
		m.must(m.applied, "waited for services that were not applied")
		return nil
	})
}

const kubeadmConfig = "/run/constellation/kubeadm/kubeadm.yaml"

// memoryStore and diskStore keep the journal's records.
type memoryStore struct{ *machine }

func (s memoryStore) Load() (r *journal.Record, err error) {
	return r, s.do("read the journal in memory", func() error { r = cloneRecord(s.boot); return missing(r) })
}

func (s memoryStore) Save(r *journal.Record) error {
	return s.do("write the journal in memory", func() error { s.boot = cloneRecord(r); return nil })
}

type diskStore struct{ *machine }

func (s diskStore) Load() (r *journal.Record, err error) {
	return r, s.do("read the journal on the disk", func() error {
		s.must(s.mounted, "read the journal before the state disk was mounted")
		r = cloneRecord(s.record)
		return missing(r)
	})
}

func (s diskStore) Save(r *journal.Record) error {
	return s.do("write the journal on the disk", func() error {
		s.must(s.mounted, "wrote the journal before the state disk was mounted")
		s.record = cloneRecord(r)
		return nil
	})
}

func missing(r *journal.Record) error {
	if r == nil {
		return fs.ErrNotExist
	}
	return nil
}

func cloneRecord(r *journal.Record) *journal.Record {
	if r == nil {
		return nil
	}
	c := *r
	c.Marks, c.Entries = append([]string(nil), r.Marks...), append([]journal.Entry(nil), r.Entries...)
	return &c
}

func (m *machine) sync() error {
	return m.do("sync", func() error { maps.Copy(m.synced, m.kubernetes); return nil })
}

// run is one process that gets an Init: it opens the journal and does all steps.
func (m *machine) run(ctx context.Context, ring *keys.Keyring, request string) ([]*api.Progress, error) {
	return m.process(ctx, ring, request, "node", func(j *journal.Journal) Plan { return Plan{Steps: all(m, ring, j, request)} })
}

// recover is one that gets a Recover.
func (m *machine) recover(ctx context.Context, ring *keys.Keyring) ([]*api.Progress, error) {
	return m.process(ctx, ring, "", "", func(j *journal.Journal) Plan {
		d := &Disk{Mapper: m, Units: m, Keys: MasterKeys{ring}, Witness: disk.Unwitnessed(), Opening: j.Opening, Settle: j.Settle}
		cluster, _ := ring.ClusterID()
		return Plan{
			Steps: []Step{&Lock{Register: m, Cluster: cluster, Before: d.Fits}, d},
			Then: func() ([]Step, error) {
				request, err := m.readNode()
				if err != nil {
					return nil, err
				}
				if err := j.Adopt(request, "node"); err != nil {
					return nil, err
				}
				return rest(m, ring, j), nil
			},
		}
	})
}

func (m *machine) process(ctx context.Context, ring *keys.Keyring, request, node string, plan func(*journal.Journal) Plan) ([]*api.Progress, error) {
	m.killed = false
	j, err := journal.Open(memoryStore{m}, diskStore{m}, m.sync)
	if err != nil {
		return nil, err
	}
	cluster, err := ring.ClusterID()
	if err != nil {
		return nil, err
	}
	if err := j.Begin(cluster.String(), request, node); err != nil {
		return nil, err
	}
	var events []*api.Progress
	s := Sequence{
		Plan: plan(j), Journal: j, Observe: func(p *api.Progress) { events = append(events, p) },
		Limit: func(api.Step) time.Duration { return 10 * time.Second },
	}
	err = s.Run(ctx)
	if err == nil {
		o := j.Opened()
		m.must(o != nil && o.UUID == m.uuid && o.Number == m.generation.Number && o.ID == m.generation.ID, "the journal has another generation than the disk")
	}
	return events, err
}

func (m *machine) writeNode(request string) error {
	return m.do("write the node's record", func() error {
		m.must(m.mounted, "wrote the record before the state disk was mounted")
		m.node = request
		return nil
	})
}

func (m *machine) readNode() (request string, err error) {
	return request, m.do("read the node's record", func() error {
		m.must(m.mounted, "read the record before the state disk was mounted")
		if request = m.node; request == "" {
			return failure("Send the same Init again.", "no record of a node")
		}
		return nil
	})
}

// all are the steps of a first node.
func all(m *machine, ring *keys.Keyring, j *journal.Journal, request string) []Step {
	cluster, _ := ring.ClusterID()
	uuids := 0
	return append([]Step{
		&Lock{Register: m, Cluster: cluster},
		&Disk{
			Mapper: m, Units: m, Keys: MasterKeys{ring}, Witness: disk.Unwitnessed(), Opening: j.Opening,
			Settle: func() error {
				if err := j.Settle(); err != nil {
					return err
				}
				return m.writeNode(request)
			},
			NewUUID: func() (string, error) {
				uuids++
				return fmt.Sprintf("00000000-0000-4000-8000-%012d", uuids), nil
			},
		},
	}, rest(m, ring, j)...)
}

// rest are those on an open disk.
func rest(m *machine, ring *keys.Keyring, j *journal.Journal) []Step {
	return []Step{
		&Components{Delivery: m},
		&Runtime{Units: m, Delivery: m},
		&Secrets{Files: m, Units: m, Keyring: ring},
		&ControlPlane{Units: m, Files: m, Kubernetes: m, Marks: j, Render: func(string) (map[string][]byte, error) {
			return map[string][]byte{kubeadmConfig: []byte("configuration")}, nil
		}},
		&APIServer{Cluster: m, Units: m},
		&Services{Cluster: m, Units: m, Marks: j, Members: members{m, j}},
		&Node{Cluster: m},
	}
}
