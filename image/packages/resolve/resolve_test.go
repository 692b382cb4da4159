// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"

	"github.com/constellation-os/constellation/image/packages/archive"
)

// offer reads packages from lines "name version; field: value; ...".
func offer(t *testing.T, lines ...string) []*archive.Package {
	t.Helper()
	var packages []*archive.Package
	for _, line := range lines {
		parts := strings.Split(line, "; ")
		name, number, _ := strings.Cut(parts[0], " ")
		v, err := version.Parse(number)
		if err != nil {
			t.Fatal(err)
		}
		p := &archive.Package{Name: name, Version: v, Architecture: "amd64"}
		for _, field := range parts[1:] {
			key, value, _ := strings.Cut(field, ": ")
			parsed, err := dependency.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			switch key {
			case "depends":
				p.Depends = *parsed
			case "conflicts":
				p.Conflicts = *parsed
			case "provides":
				p.Provides = *parsed
			case "arch":
				p.Architecture = value
			default:
				t.Fatalf("unknown field %q", key)
			}
		}
		packages = append(packages, p)
	}
	return packages
}

func TestResolve(t *testing.T) {
	for name, test := range map[string]struct {
		offer   []string
		wanted  []Entry
		refused []string
		want    []string // name and version
		dropped []Dropped
		unused  []string
		fails   string
	}{
		"newest of several archives, dependencies of dependencies": {
			offer:  []string{"a 1", "a 1:0.5; depends: b", "a 2", "b 1; depends: c (>= 1)", "c 1", "d 1"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1:0.5", "b 1", "c 1"},
		},
		"foreign architecture does not count": {
			offer:  []string{"a 2; arch: arm64", "a 1; arch: all"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1"},
		},
		"cycle": {
			offer:  []string{"a 1; depends: b", "b 1; depends: a (= 1)"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1", "b 1"},
		},
		"first alternative": {
			offer:  []string{"a 1; depends: b | c", "b 1", "c 1"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1", "b 1"},
		},
		"alternative that is wanted anyway": {
			offer:  []string{"a 1; depends: b | c", "b 1", "c 1"},
			wanted: []Entry{{Name: "a"}, {Name: "c"}},
			want:   []string{"a 1", "c 1"},
		},
		"alternative whose version fits": {
			offer:  []string{"a 1; depends: b (>= 2) | c (<< 2)", "b 1", "c 1"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1", "c 1"},
		},
		"first provider by name": {
			offer:  []string{"a 1; depends: virtual", "y 1; provides: virtual", "x 1; provides: virtual"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1", "x 1"},
		},
		"provider that is wanted anyway": {
			offer:  []string{"a 1; depends: virtual", "y 1; provides: virtual", "x 1; provides: virtual"},
			wanted: []Entry{{Name: "a"}, {Name: "y"}},
			want:   []string{"a 1", "y 1"},
		},
		"versioned provider": {
			offer:  []string{"a 1; depends: virtual (>= 2)", "x 9; provides: virtual", "y 1; provides: virtual (= 2)"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 1", "y 1"},
		},
		"refused dependency is dropped, its other alternatives too": {
			offer:   []string{"a 1; depends: b (>= 1) | c, d", "b 1", "c 1", "d 1"},
			wanted:  []Entry{{Name: "a"}},
			refused: []string{"b"},
			want:    []string{"a 1", "d 1"},
			dropped: []Dropped{{Package: "a", Relation: "b (>= 1) | c", Refused: "b"}},
		},
		"refused package that nothing asks for": {
			offer:   []string{"a 1"},
			wanted:  []Entry{{Name: "a"}},
			refused: []string{"b"},
			want:    []string{"a 1"},
			unused:  []string{"b"},
		},
		"package that stands for its dependencies": {
			offer:  []string{"meta 5; depends: linux-2 (= 2)", "linux-2 2", "linux-1 1"},
			wanted: []Entry{{Name: "meta", Meta: true}},
			want:   []string{"linux-2 2"},
		},
		"wanted package is missing": {
			offer:  []string{"a 1"},
			wanted: []Entry{{Name: "b"}},
			fails:  "wanted package b is in none of the archives",
		},
		"dependency cannot be met": {
			offer:  []string{"a 1; depends: b (>= 2)", "b 1"},
			wanted: []Entry{{Name: "a"}},
			fails:  "a 1 depends on b (>= 2), which none of the archives can meet",
		},
		"chosen packages exclude one another": {
			offer:  []string{"a 1; depends: b", "b 1; conflicts: a (<< 2)"},
			wanted: []Entry{{Name: "a"}},
			fails:  "b 1 conflicts with a 1",
		},
		"conflict with another version": {
			offer:  []string{"a 2; depends: b", "b 1; conflicts: a (<< 2)"},
			wanted: []Entry{{Name: "a"}},
			want:   []string{"a 2", "b 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			group := Group{Wanted: test.wanted}
			for _, name := range test.refused {
				group.Refused = append(group.Refused, Entry{Name: name})
			}
			selection, err := NewUniverse(offer(t, test.offer...), "amd64").Resolve(group)
			if test.fails != "" {
				if err == nil || err.Error() != test.fails {
					t.Fatalf("error %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range selection.Packages {
				got = append(got, p.Name+" "+p.Version.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.dropped, selection.Dropped); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.unused, selection.Unused); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const goodList = `
architecture: amd64
suites: [{archive: debian, suite: trixie, component: main}]
groups:
  root:
    wanted: [{name: a, why: because}]
    refused: [{name: b, why: because}]
`

func TestReadWanted(t *testing.T) {
	w, err := ReadWanted([]byte(goodList))
	if err != nil {
		t.Fatal(err)
	}
	want := &Wanted{
		Architecture: "amd64",
		Suites:       []Suite{{Archive: "debian", Suite: "trixie", Component: "main"}},
		Groups:       map[string]Group{"root": {Wanted: []Entry{{Name: "a", Why: "because"}}, Refused: []Entry{{Name: "b", Why: "because"}}}},
	}
	if diff := cmp.Diff(want, w); diff != "" {
		t.Error(diff)
	}
	for name, test := range map[string]struct{ old, new, says string }{
		"unknown field":        {"component: main", "component: main, mirror: x", "field mirror not found"},
		"unknown field at top": {"groups:", "hosts: []\ngroups:", "field hosts not found"},
		"no reason":            {"name: a, why: because", "name: a", "a has no reason"},
		"no name":              {"name: a, ", "", "an entry has no name"},
		"wanted and refused":   {"name: b", "name: a", "a occurs twice"},
		"unknown archive":      {"archive: debian", "archive: ubuntu", "unknown archive"},
		"no suite":             {"suite: trixie, ", "", "suite or component is missing"},
		"no architecture":      {"architecture: amd64", "", "architecture is missing"},
		"second document":      {"groups:", "---\ngroups:", ""},
		"not YAML":             {"groups:", "groups: [", ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(goodList, test.old, test.new, 1)
			if text == goodList {
				t.Fatal("the case changes nothing")
			}
			_, err := ReadWanted([]byte(text))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v does not say %q", err, test.says)
			}
		})
	}
}
