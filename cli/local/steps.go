// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	climeasurements "github.com/constellation-os/constellation/cli/measurements"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/predict"
)

// Names of files in an image's folder.
const (
	diskFile         = "disk.raw"
	measurementsFile = "measurements.json"
)

// acceptedFor is how long a local cluster's image is accepted.
const acceptedFor = 365 * 24 * time.Hour

// path is that of a file in the cluster's folder.
func (u *up) path(name string) string { return filepath.Join(string(u.dir), name) }

// preflight reports all that is missing, before anything is made.
func (u *up) preflight() error {
	var errs []error
	if u.flags.image == "" {
		errs = append(errs, fmt.Errorf("no image: name its folder with --image (or $%s); tools/bazel build //image:qemu makes bazel-bin/image/qemu", imageEnv))
	} else if shape, err := u.shape(); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, u.options.Preflight(machine.Config{
			Disk:     filepath.Join(u.flags.image, diskFile),
			Firmware: machine.Firmware{Code: u.flags.firmwareCode, Vars: u.flags.firmwareVars},
			Shape:    shape,
			TPM:      machine.TPM{AuthorityDir: u.dir.AuthorityFolder()},
		}, u.flags.controlPlanes+u.flags.workers, filepath.Dir(string(u.dir))))
	}
	if u.flags.bundle == "" {
		errs = append(errs, fmt.Errorf("no bundle of Kubernetes' components: name its folder with --bundle (or $%s); tools/bazel build //kubernetes:bundle makes bazel-bin/kubernetes/bundle.oci", bundleEnv))
	} else if _, err := u.options.Bundle(u.flags.bundle); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, network.CheckPort(u.flags.apiPort))
	if err := errors.Join(errs...); err != nil {
		var busy *network.PortError
		if errors.As(err, &busy) {
			err = fmt.Errorf("%w (--api-port)", err)
		}
		return fmt.Errorf("this computer lacks something that a local cluster needs:\n%w", err)
	}
	return nil
}

// shape is that of the machines: what the image was predicted for, but for memory and
// processors, which no register that is enforced depends on.
func (u *up) shape() (measurements.Machine, error) {
	shape := measurements.QEMU()
	p, err := readPrediction(filepath.Join(u.flags.image, measurementsFile))
	if err != nil {
		return shape, err
	}
	if p.Machine != nil {
		shape = *p.Machine
	}
	shape.CPUs, shape.MemoryMiB = u.flags.cpus, u.flags.memory
	return shape, shape.Check()
}

func readPrediction(path string) (*measurements.Prediction, error) {
	data, err := command.ReadFile(path, measurements.MaxPredictionSize)
	if err != nil {
		return nil, fmt.Errorf("read what the image must measure: %w", err)
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// makeFiles makes all that a cluster consists of before a machine runs. The spec comes
// last: with it the cluster is there.
func (u *up) makeFiles() error {
	u.begin("config", "config generate %s", config.DefaultFile)
	set, err := copySmall(filepath.Join(u.flags.bundle, bundle.SetFile), u.path(bundle.SetFile))
	if err != nil {
		return err
	}
	version, err := kubernetesVersion(set)
	if err != nil {
		return err
	}
	if err := u.writeConfig(version); err != nil {
		return err
	}
	u.report.End("config", progress.Done, "Kubernetes %s", version)

	u.begin("measurements", "measurements fetch %s; constellation measurements verify %[1]s", u.flags.image)
	if _, err := copySmall(filepath.Join(u.flags.image, measurementsFile), u.path(measurementsFile)); err != nil {
		return err
	}
	p, err := readPrediction(u.path(measurementsFile))
	if err != nil {
		return err
	}
	differ, err := climeasurements.Verify(predict.Files{
		Disk: u.flags.image, FirmwareCode: u.flags.firmwareCode, FirmwareVariables: u.flags.firmwareVars,
	}, p)
	if err != nil {
		return err
	}
	if len(differ) > 0 {
		return fmt.Errorf("the image in %s is not the one that its %s is of: PCR %v would differ\nwhat to do: build the image again, or get both from its maker", u.flags.image, measurementsFile, differ)
	}
	u.report.End("measurements", progress.Done, "%s %s %s", p.Image.Name, p.Image.Flavour, p.Image.Version)

	u.begin("keys", "keys generate %s; constellation keys init-secret %s", clikeys.DefaultFile, initsecret.DefaultFile)
	r := keys.Generate()
	defer r.Wipe()
	if err := r.Create(u.path(clikeys.DefaultFile)); err != nil {
		return err
	}
	id, err := r.ClusterID()
	if err != nil {
		return err
	}
	hash, err := initsecret.Create(u.path(initsecret.DefaultFile))
	if err != nil {
		return err
	}
	if err := u.writeSpec(hex.EncodeToString(hash[:])); err != nil {
		return err
	}
	u.report.End("keys", progress.Done, "cluster ID %s", id)
	return nil
}

// begin says which command a step is.
func (u *up) begin(step, format string, args ...any) {
	u.report.Begin(step, "constellation "+format, args...)
}

func (u *up) writeConfig(version string) error {
	c := config.Config{
		Name: u.flags.name, Provider: "qemu", Endpoint: supervisor.Endpoint(), APIServerNames: []string{"127.0.0.1", "localhost"},
		Kubernetes: config.Kubernetes{
			Version: version, Components: bundle.SetFile, Sources: []string{supervisor.BundleSource()},
			PodNetwork: config.DefaultPodNetwork, ServiceNetwork: config.DefaultServiceNetwork,
		},
		Attestation: config.Attestation{
			Measurements: []string{measurementsFile}, AcceptedUntil: time.Now().Add(acceptedFor).UTC().Format(time.DateOnly),
			Authorities: []string{supervisor.AuthorityFile}, FirstCome: []string{policy.Worker},
		},
	}
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	if _, err := config.Parse(data, string(u.dir)); err != nil {
		return err
	}
	return os.WriteFile(u.path(config.DefaultFile), data, 0o600)
}

func (u *up) writeSpec(initSecretHash string) error {
	shape, err := u.shape()
	if err != nil {
		return err
	}
	s := &supervisor.Spec{
		Name: u.flags.name, Shape: shape, StateDiskGiB: u.flags.disk,
		Machines: supervisor.Machines(u.flags.controlPlanes, u.flags.workers),
		APIPort:  u.flags.apiPort, Endpoint: supervisor.Endpoint(), InitSecretHash: initSecretHash,
	}
	// What the machines boot stays the same, whatever is built meanwhile.
	for _, f := range []struct {
		from, name string
		to         *string
	}{
		{filepath.Join(u.flags.image, diskFile), diskFile, &s.Disk},
		{u.flags.firmwareCode, "firmware-code.fd", &s.FirmwareCode},
		{u.flags.firmwareVars, "firmware-vars.fd", &s.FirmwareVars},
	} {
		*f.to = u.path(f.name)
		if err := keep(f.from, *f.to); err != nil {
			return err
		}
	}
	if s.Bundle, err = filepath.Abs(u.flags.bundle); err != nil {
		return err
	}
	return u.dir.WriteSpec(s)
}

// firstOf is the first error that there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// keep makes a file stay as it is: a second name of it, or else a copy.
func keep(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// copySmall copies a file of a few MiB at most, and returns its content.
func copySmall(from, to string) ([]byte, error) {
	data, err := command.ReadFile(from, measurements.MaxPredictionSize)
	if err != nil {
		return nil, err
	}
	return data, os.WriteFile(to, data, 0o600)
}
