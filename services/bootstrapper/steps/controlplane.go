// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"fmt"

	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Units of the control plane.
const (
	KubeadmFilesService  = "kubeadm-files.service"  // kubeadm makes certificates, configuration and static pods
	KubeadmFinishService = "kubeadm-finish.service" // kubeadm does what needs the API server
	KubeletService       = "kubelet.service"
)

const (
	// KubeletGate is a file without which kubelet.service does not start: kubeadm tries to
	// start it before what it has made is sure to be on the disk.
	KubeletGate = "/run/constellation/kubelet"
	// FilesMark is the journal's mark that what kubeadm made is on the disk, whole.
	FilesMark = "control-plane-files"
)

// Marks are what the journal on the state disk remembers beyond steps.
type Marks interface {
	// Marked says whether the disk has the mark.
	Marked(mark string) bool
	// Mark makes sure that everything written to the disk so far is on it, then sets the mark.
	Mark(mark string) error
}

// KubernetesFiles are Kubernetes' own, on the state disk.
type KubernetesFiles interface {
	// Empty removes what is below /etc/kubernetes.
	Empty() error
	// Renewable has kubelet keep its certificate, which kubeadm has written into its
	// configuration, where it can renew it. kubelet must not have run.
	Renewable() error
	// Certify makes KeyService's certificate, of the cluster's authority, unless there is
	// one that is good for long enough.
	Certify() (Outcome, error)
}

// ControlPlane has kubeadm make the control plane's files, once, and starts kubelet.
//
// Before the mark nothing has run with these files, and a power cut may have left any
// of them empty: they are made anew. After it they are never made again.
type ControlPlane struct {
	Units      Units
	Files      Files
	Kubernetes KubernetesFiles
	Marks      Marks
	// Render makes kubeadm's configuration and the files that it names, by their paths.
	// members are those of etcd when this node becomes one more of them, and else nothing.
	Render func(members string) (map[string][]byte, error)
	// Further is nil on the cluster's first node.
	Further *Further
}

// Etcd is the cluster's store, of which this node becomes one more member.
type Etcd interface {
	// Announce makes the node a member that learns, and returns all members as etcd wants
	// them told, NAME=URL,… It may be called again until etcd has run on the node.
	Announce(ctx context.Context) (members string, err error)
	// Promote makes the member that learns one that votes; a member that does stays one.
	Promote(ctx context.Context) error
}

// Further is what makes a node one more of a control plane.
type Further struct {
	// Given are the files that all of its nodes have, by their paths. Some are secret.
	Given map[string][]byte
	Etcd  Etcd
}

// prepare does what has to be before kubeadm makes the other files.
func (f *Further) prepare(ctx context.Context, files Files, report Report) (members string, err error) {
	if f == nil {
		return "", nil
	}
	if _, err := writeAll(files, f.Given); err != nil {
		return "", fmt.Errorf("write the control plane's files: %w", err)
	}
	report("etcd: one more member", 0, 0)
	// etcd takes one such member at a time, and none while it has no majority.
	err = wait(ctx, report, func(ctx context.Context) (err error) {
		members, err = f.Etcd.Announce(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("become a member of etcd: %w", err)
	}
	return members, nil
}

// ID implements [Step].
func (*ControlPlane) ID() api.Step { return api.Step_STEP_CONTROL_PLANE }

// Run implements [Step].
func (c *ControlPlane) Run(ctx context.Context, report Report) (Outcome, error) {
	made, members := c.Marks.Marked(FilesMark), ""
	if !made {
		err := c.Kubernetes.Empty()
		if err != nil {
			return Done, fmt.Errorf("remove what an earlier attempt has left: %w", err)
		}
		if members, err = c.Further.prepare(ctx, c.Files, report); err != nil {
			return Done, err
		}
	}
	outcome, err := c.configure(members)
	if err != nil {
		return outcome, err
	}
	if !made {
		outcome = Done
		report("certificates and static pods", 0, 0)
		if err := c.Units.Start(ctx, KubeadmFilesService); err != nil {
			return outcome, fmt.Errorf("make the control plane's files: %w", err)
		}
		if err := c.Kubernetes.Renewable(); err != nil {
			return outcome, fmt.Errorf("let kubelet renew its certificate: %w", err)
		}
		if err := c.Marks.Mark(FilesMark); err != nil {
			return outcome, err
		}
		// From here on the node's configuration is like every other's.
		if members != "" {
			if _, err := c.configure(""); err != nil {
				return outcome, err
			}
		}
	}
	certified, err := c.Kubernetes.Certify()
	if err != nil {
		return outcome, fmt.Errorf("make KeyService's certificate: %w", err)
	}
	gate, err := c.Files.Write(KubeletGate, []byte("open\n"))
	if err != nil {
		return outcome, err
	}
	report("kubelet", 0, 0)
	started, err := ensure(ctx, c.Units, KubeletService)
	return both(both(outcome, certified), both(gate, started)), err
}

// configure writes kubeadm's configuration and what it names. Some of it is in memory,
// and gone after a reboot.
func (c *ControlPlane) configure(members string) (Outcome, error) {
	files, err := c.Render(members)
	if err != nil {
		return Done, fmt.Errorf("make kubeadm's configuration: %w", err)
	}
	return writeAll(c.Files, files)
}
