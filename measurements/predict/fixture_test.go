// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/esp"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/pe"
	"github.com/constellation-os/constellation/measurements/predict"
)

// artifacts are the inputs of a prediction before they are put together.
type artifacts struct {
	uki       artifacttest.UKISections
	files     []artifacttest.File
	table     *gpt.Table
	volumes   artifacttest.Volumes
	variables []artifacttest.Variable
	machine   measurements.Machine
	config    map[string][]byte
	stub      string // if not the default
}

func defaults() *artifacts {
	return &artifacts{
		uki:     artifacttest.DefaultUKI(),
		table:   artifacttest.Table(),
		volumes: artifacttest.FirmwareVolumes(false),
		machine: measurements.QEMU(),
		config:  acpiFiles(),
	}
}

// acpiFiles are fw_cfg files: a script that allocates two files.
func acpiFiles() map[string][]byte {
	script := make([]byte, 3*128)
	script[0] = 1
	copy(script[4:], "etc/acpi/rsdp")
	script[128] = 3 // another command
	script[256] = 1
	copy(script[260:], "etc/acpi/tables")
	return map[string][]byte{"etc/table-loader": script, "etc/acpi/rsdp": []byte("rsdp"), "etc/acpi/tables": []byte("tables"), "etc/e820": []byte("not measured")}
}

func (a *artifacts) input() predict.Input {
	uki := a.uki.Encode()
	if a.stub != "" {
		uki = bytes.Replace(uki, []byte("systemd-stub 257"), []byte("systemd-stub "+a.stub[:3]), 1)
	}
	files := append([]artifacttest.File{{Path: artifacttest.BootFile, Content: uki}}, a.files...)
	disk := artifacttest.DiskOf(a.table, artifacttest.ESP(files...))
	return predict.Input{
		Disk: bytes.NewReader(disk), DiskSize: int64(len(disk)),
		FirmwareCode: a.volumes.Code(), FirmwareVariables: artifacttest.FirmwareVariables(a.variables...),
		Machine: a.machine, FirmwareConfig: a.config,
	}
}

func mustPredict(t *testing.T, a *artifacts) *measurements.Prediction {
	t.Helper()
	p, err := predict.Predict(a.input())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reason extracts the typed reason of any package's error.
func reason(err error) string {
	var (
		p *predict.Error
		g *gpt.Error
		f *esp.Error
		i *pe.Error
		o *ovmf.Error
	)
	switch {
	case errors.As(err, &p):
		return "predict:" + string(p.Reason)
	case errors.As(err, &g):
		return "gpt:" + string(g.Reason)
	case errors.As(err, &f):
		return "esp:" + string(f.Reason)
	case errors.As(err, &i):
		return "pe:" + string(i.Reason)
	case errors.As(err, &o):
		return "ovmf:" + string(o.Reason)
	}
	return ""
}
