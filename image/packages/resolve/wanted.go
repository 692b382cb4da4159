// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/constellation-os/constellation/image/packages/archive"
)

// Wanted is the content of packages.yaml: what people decide, and why.
type Wanted struct {
	Architecture string           `yaml:"architecture"`
	Suites       []Suite          `yaml:"suites"`
	Groups       map[string]Group `yaml:"groups"`
}

// A Suite is one distribution of one archive.
type Suite struct {
	Archive   string `yaml:"archive"`
	Suite     string `yaml:"suite"`
	Component string `yaml:"component"`
}

// A Group is a set of packages with one use. Groups are resolved separately.
type Group struct {
	Wanted  []Entry `yaml:"wanted"`
	Refused []Entry `yaml:"refused"`
}

// An Entry names a package and says why it is wanted or refused.
type Entry struct {
	Name string `yaml:"name"`
	Why  string `yaml:"why"`
	// Meta marks a package that stands for its dependencies and is not taken itself.
	Meta bool `yaml:"meta"`
}

// ReadWanted reads packages.yaml strictly.
func ReadWanted(text []byte) (*Wanted, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	w := new(Wanted)
	if err := decoder.Decode(w); err != nil {
		return nil, fmt.Errorf("list of wanted packages: %w", err)
	}
	if err := decoder.Decode(new(Wanted)); !errors.Is(err, io.EOF) {
		return nil, errors.New("list of wanted packages: more than one document")
	}
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("list of wanted packages: %w", err)
	}
	return w, nil
}

func (w *Wanted) check() error {
	if w.Architecture == "" {
		return errors.New("architecture is missing")
	}
	if len(w.Suites) == 0 || len(w.Groups) == 0 {
		return errors.New("suites or groups are missing")
	}
	for _, s := range w.Suites {
		if s.Archive != archive.Debian && s.Archive != archive.Security {
			return fmt.Errorf("suite %q: unknown archive %q", s.Suite, s.Archive)
		}
		if s.Suite == "" || s.Component == "" {
			return fmt.Errorf("archive %q: suite or component is missing", s.Archive)
		}
	}
	for name, group := range w.Groups {
		seen := map[string]bool{}
		for _, entry := range slices.Concat(group.Wanted, group.Refused) {
			switch {
			case entry.Name == "":
				return fmt.Errorf("group %s: an entry has no name", name)
			case entry.Why == "":
				return fmt.Errorf("group %s: %s has no reason (why)", name, entry.Name)
			case seen[entry.Name]:
				return fmt.Errorf("group %s: %s occurs twice", name, entry.Name)
			}
			seen[entry.Name] = true
		}
	}
	return nil
}
