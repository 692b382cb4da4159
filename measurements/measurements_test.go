// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/printable"
)

func TestPredictionRoundTrip(t *testing.T) {
	p := prediction(t)
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	q, err := measurements.ParsePrediction(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, q); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

func TestParsePredictionRefuses(t *testing.T) {
	p := prediction(t)
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	digest := p.Events[0].Digests[measurements.SHA256].String()
	p.Machine = &measurements.Machine{}
	*p.Machine = measurements.QEMU()
	withMachine, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := measurements.ParsePrediction(withMachine); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"board with an option":     strings.Replace(string(withMachine), `"pc-q35-10.0"`, `"pc-q35-10.0,kernel=/etc/shadow"`, 1),
		"machine without CPUs":     strings.Replace(string(withMachine), `"cpus": 2`, `"cpus": 0`, 1),
		"empty":                    "",
		"cut":                      good[:len(good)/2],
		"trailing data":            good + "{}",
		"other version":            strings.Replace(good, `"version": 1`, `"version": 2`, 1),
		"version twice":            strings.Replace(good, `"version": 1`, `"version": 2, "version": 1`, 1),
		"version in another case":  strings.Replace(good, `"version": 1`, `"Version": 1`, 1),
		"PCR 4 as 04":              strings.Replace(good, `"4": "`, `"04": "`, 1),
		"PCR 11 twice":             strings.Replace(good, `"11": "`, `"+11": "`+strings.Repeat("0", 64)+`", "11": "`, 1),
		"bank twice":               strings.Replace(good, `"sha256": {`, `"sha256": {}, "sha256": {`, 1),
		"unknown field":            strings.Replace(good, `"version": 1`, `"version": 1, "x": 1`, 1),
		"digest in upper case":     strings.ReplaceAll(good, digest, strings.ToUpper(digest)),
		"digest too short":         strings.ReplaceAll(good, digest, digest[2:]),
		"digest changed":           strings.Replace(good, digest, strings.Repeat("0", 64), 1),
		"unknown bank":             strings.Replace(good, `"sha384"`, `"sha512"`, 1),
		"PCR 16":                   strings.Replace(good, `"pcr": 11`, `"pcr": 16`, 1),
		"negative PCR":             strings.Replace(good, `"pcr": 11`, `"pcr": -1`, 1),
		"enforced twice":           strings.Replace(good, "    4,\n    5,", "    4,\n    4,", 1),
		"no events":                `{"version":1,"image":{"name":"x"},"events":[],"pcrs":{},"enforced":[4,9,11,12,13,15],"unpredicted":[]}`,
		"nothing enforced":         good[:strings.Index(good, `"enforced"`)] + `"enforced": [], "unpredicted": []}`,
		"PCR 12 not enforced":      strings.Replace(good, "    12,\n", "", 1),
		"enforced but unpredicted": strings.Replace(good, `"unpredicted": []`, `"unpredicted": [{"pcr":4,"event":"x","why":"y"}]`, 1),
		"larger than the limit":    good + strings.Repeat(" ", measurements.MaxPredictionSize),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if text == good {
				t.Fatal("the case changes nothing")
			}
			if _, err := measurements.ParsePrediction([]byte(text)); !errors.Is(err, measurements.ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

// Whoever shows a prediction shows it as it is.
func TestPredictionOfUnprintableTextIsRefused(t *testing.T) {
	for name, change := range map[string]func(p *measurements.Prediction){
		"name":      func(p *measurements.Prediction) { p.Image.Name = "\x1b[2J" },
		"no name":   func(p *measurements.Prediction) { p.Image.Name = "" },
		"long name": func(p *measurements.Prediction) { p.Image.Name = strings.Repeat("x", measurements.MaxName+1) },
		"flavour":   func(p *measurements.Prediction) { p.Image.Flavour = "\n" },
		"version":   func(p *measurements.Prediction) { p.Image.Version = "\u202e" },
		"artifact": func(p *measurements.Prediction) {
			p.Image.Artifacts = map[string]measurements.Digest{"\r": make([]byte, 32)}
		},
		"short artifact": func(p *measurements.Prediction) {
			p.Image.Artifacts = map[string]measurements.Digest{"x": make([]byte, 31)}
		},
		"event type":       func(p *measurements.Prediction) { p.Events[0].Type = "\x07" },
		"component":        func(p *measurements.Prediction) { p.Events[0].Component = "\x07" },
		"description":      func(p *measurements.Prediction) { p.Events[0].Description = "\x9b" },
		"long description": func(p *measurements.Prediction) { p.Events[0].Description = strings.Repeat("x", 513) },
		"unpredicted":      func(p *measurements.Prediction) { p.Unpredicted[0].Event = "\x1b" },
		"why":              func(p *measurements.Prediction) { p.Unpredicted[0].Why = "\x1b" },
	} {
		p := prediction(t)
		p.Unpredicted = []measurements.Unpredicted{{PCR: 1, Event: "x", Why: "y"}}
		p.PCRs = p.Replay()
		if _, err := p.JSON(); err != nil {
			t.Fatal(err)
		}
		change(p)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := measurements.ParsePrediction(data); !errors.Is(err, measurements.ErrFormat) || !printable.Is(err.Error(), 1000) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
}

func TestParseObserved(t *testing.T) {
	p := prediction(t)
	o := artifacttest.Observed(p, artifacttest.EventsOf(p))
	o.Timings = map[string]float64{"ready": 1.5}
	data, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := measurements.ParseObserved(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	for name, text := range map[string]string{
		"empty":         "",
		"other version": `{"version":0}`,
		"PCR 24":        `{"version":1,"pcrs":{"sha256":{"24":"` + strings.Repeat("0", 64) + `"}}}`,
		"short value":   `{"version":1,"pcrs":{"sha256":{"4":"00"}}}`,
		"unknown bank":  `{"version":1,"pcrs":{"sm3":{}}}`,
		"unknown field": `{"version":1,"expected":{}}`,
		"PCR 4 as 04":   `{"version":1,"pcrs":{"sha256":{"04":"` + strings.Repeat("0", 64) + `"}}}`,
		"PCR 4 twice":   `{"version":1,"pcrs":{"sha256":{"4":"` + strings.Repeat("0", 64) + `","4":"` + strings.Repeat("1", 64) + `"}}}`,
		"another case":  `{"version":1,"PCRS":{}}`,
		"log twice":     `{"version":1,"event_log":"","event_log":"AAAA"}`,
		"bad base64":    `{"version":1,"event_log":"%"}`,
	} {
		if _, err := measurements.ParseObserved([]byte(text)); !errors.Is(err, measurements.ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
}

// The declared shape is valid; shapes that cannot be built are not.
func TestMachineCheck(t *testing.T) {
	m := measurements.QEMU()
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(m *measurements.Machine){
		"no board":      func(m *measurements.Machine) { m.Board = "" },
		"board option":  func(m *measurements.Machine) { m.Board = "pc-q35-10.0,kernel=/etc/shadow" },
		"board space":   func(m *measurements.Machine) { m.Board = "pc-q35-10.0 -kernel" },
		"board dash":    func(m *measurements.Machine) { m.Board = "-kernel" },
		"board line":    func(m *measurements.Machine) { m.Board = "pc-q35-10.0\n" },
		"board help":    func(m *measurements.Machine) { m.Board = "?" },
		"board length":  func(m *measurements.Machine) { m.Board = strings.Repeat("q", 65) },
		"no CPU":        func(m *measurements.Machine) { m.CPU = "" },
		"CPU option":    func(m *measurements.Machine) { m.CPU = "max,hv-vendor-id=x" },
		"CPU escape":    func(m *measurements.Machine) { m.CPU = "max\x1b[2J" },
		"CPU length":    func(m *measurements.Machine) { m.CPU = strings.Repeat("m", 65) },
		"no CPUs":       func(m *measurements.Machine) { m.CPUs = 0 },
		"no memory":     func(m *measurements.Machine) { m.MemoryMiB = 0 },
		"slot 0":        func(m *measurements.Machine) { m.Devices[0].Slot = 0 },
		"slot 31":       func(m *measurements.Machine) { m.Devices[4].Slot = 31 },
		"slot twice":    func(m *measurements.Machine) { m.Devices[1].Slot = 2 },
		"unknown model": func(m *measurements.Machine) { m.Devices[0].Model = "e1000" },
		"boot from net": func(m *measurements.Machine) { m.Devices[0].Boot = true },
		"no boot disk":  func(m *measurements.Machine) { m.Devices[1].Boot = false },
		"two boot disks": func(m *measurements.Machine) {
			m.Devices[2] = measurements.Device{Slot: 4, Model: measurements.ModelDisk, Boot: true}
		},
		"two state disks": func(m *measurements.Machine) {
			m.Devices[3] = measurements.Device{Slot: 5, Model: measurements.ModelDisk}
		},
	} {
		m := measurements.QEMU()
		change(&m)
		if m.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParsePrediction(f *testing.F) {
	data, err := prediction(f).JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := measurements.ParsePrediction(data)
		if err != nil {
			if !errors.Is(err, measurements.ErrFormat) {
				t.Fatalf("error without ErrFormat: %v", err)
			}
			return
		}
		if _, err := p.JSON(); err != nil {
			t.Fatalf("parsed, but cannot be written: %v", err)
		}
	})
}

func FuzzParseObserved(f *testing.F) {
	p := prediction(f)
	data, err := json.Marshal(artifacttest.Observed(p, artifacttest.EventsOf(p)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := measurements.ParseObserved(data)
		if err != nil {
			return
		}
		_, _ = measurements.Compare(p, o)
	})
}
