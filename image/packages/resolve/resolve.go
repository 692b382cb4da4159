// SPDX-License-Identifier: Apache-2.0

// Package resolve chooses, from the packages that an archive offers, those that
// a list of wanted packages needs.
//
// It is not a general solver. Of each name only the newest version counts; a
// dependency is met by what is already chosen, else by its first alternative,
// else by the first provider in alphabetical order. Where that leads to a
// contradiction the answer is an error, never another guess, so the same list
// and archive always give the same packages.
package resolve

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"

	"github.com/constellation-os/constellation/image/packages/archive"
)

// A Dropped dependency was not followed, because what it asks for is refused.
type Dropped struct {
	Package  string // who depends
	Relation string // on what
	Refused  string // the refused package that dropped it
}

// A Selection is the result for one group.
type Selection struct {
	Packages []*archive.Package // by name
	Dropped  []Dropped          // in order of discovery
	Unused   []string           // refused names that nothing asked for
}

// A Universe is everything that the archives offer.
type Universe struct {
	newest    map[string]*archive.Package
	providers map[string][]provider
}

type provider struct {
	by      *archive.Package
	version *dependency.VersionRelation
}

// NewUniverse indexes packages of one architecture. Of equal versions in
// several archives the first one given is kept.
func NewUniverse(packages []*archive.Package, architecture string) *Universe {
	u := &Universe{newest: map[string]*archive.Package{}, providers: map[string][]provider{}}
	for _, p := range packages {
		if p.Architecture != architecture && p.Architecture != "all" {
			continue
		}
		if have := u.newest[p.Name]; have == nil || version.Compare(p.Version, have.Version) > 0 {
			u.newest[p.Name] = p
		}
	}
	for _, p := range u.newest {
		for _, relation := range p.Provides.Relations {
			for _, what := range relation.Possibilities {
				u.providers[what.Name] = append(u.providers[what.Name], provider{p, what.Version})
			}
		}
	}
	for _, list := range u.providers {
		slices.SortFunc(list, func(a, b provider) int { return strings.Compare(a.by.Name, b.by.Name) })
	}
	return u
}

// Resolve chooses the packages of one group.
func (u *Universe) Resolve(group Group) (*Selection, error) {
	r := resolver{universe: u, refused: map[string]bool{}, used: map[string]bool{}, chosen: map[string]*archive.Package{}}
	for _, entry := range group.Refused {
		r.refused[entry.Name] = true
	}
	var metas []*archive.Package
	for _, entry := range group.Wanted {
		p := u.newest[entry.Name]
		if p == nil {
			return nil, fmt.Errorf("wanted package %s is in none of the archives", entry.Name)
		}
		if entry.Meta {
			metas = append(metas, p)
			continue
		}
		r.choose(p)
	}
	for _, p := range metas {
		if err := r.follow(p); err != nil {
			return nil, err
		}
	}
	for len(r.queue) > 0 {
		p := r.queue[0]
		r.queue = r.queue[1:]
		if err := r.follow(p); err != nil {
			return nil, err
		}
	}
	if err := r.conflicts(); err != nil {
		return nil, err
	}
	selection := &Selection{Dropped: r.dropped}
	for _, p := range r.chosen {
		selection.Packages = append(selection.Packages, p)
	}
	slices.SortFunc(selection.Packages, func(a, b *archive.Package) int { return strings.Compare(a.Name, b.Name) })
	for _, entry := range group.Refused {
		if !r.used[entry.Name] {
			selection.Unused = append(selection.Unused, entry.Name)
		}
	}
	return selection, nil
}

type resolver struct {
	universe *Universe
	refused  map[string]bool
	used     map[string]bool // refused names that dropped something
	chosen   map[string]*archive.Package
	queue    []*archive.Package
	dropped  []Dropped
}

func (r *resolver) choose(p *archive.Package) {
	if r.chosen[p.Name] == nil {
		r.chosen[p.Name] = p
		r.queue = append(r.queue, p)
	}
}

func (r *resolver) follow(p *archive.Package) error {
	for _, relation := range p.Depends.Relations {
		if err := r.meet(p, relation); err != nil {
			return err
		}
	}
	return nil
}

func (r *resolver) meet(p *archive.Package, relation dependency.Relation) error {
	for _, possibility := range relation.Possibilities {
		if r.chosenMeets(possibility) {
			return nil
		}
	}
	for _, possibility := range relation.Possibilities {
		if r.refused[possibility.Name] {
			r.used[possibility.Name] = true
			r.dropped = append(r.dropped, Dropped{Package: p.Name, Relation: render(relation), Refused: possibility.Name})
			return nil
		}
		if q := r.universe.newest[possibility.Name]; q != nil && satisfies(q.Version, possibility.Version) {
			r.choose(q)
			return nil
		}
		for _, provided := range r.universe.providers[possibility.Name] {
			if !r.refused[provided.by.Name] && provides(provided, possibility) {
				r.choose(provided.by)
				return nil
			}
		}
	}
	return fmt.Errorf("%s %s depends on %s, which none of the archives can meet", p.Name, p.Version.String(), render(relation))
}

func (r *resolver) chosenMeets(possibility dependency.Possibility) bool {
	if p := r.chosen[possibility.Name]; p != nil && satisfies(p.Version, possibility.Version) {
		return true
	}
	for _, provided := range r.universe.providers[possibility.Name] {
		if r.chosen[provided.by.Name] == provided.by && provides(provided, possibility) {
			return true
		}
	}
	return false
}

// conflicts reports chosen packages that exclude one another.
func (r *resolver) conflicts() error {
	for _, name := range slices.Sorted(maps.Keys(r.chosen)) {
		p := r.chosen[name]
		for _, relation := range p.Conflicts.Relations {
			for _, possibility := range relation.Possibilities {
				if q := r.chosen[possibility.Name]; q != nil && q != p && satisfies(q.Version, possibility.Version) {
					return fmt.Errorf("%s %s conflicts with %s %s", p.Name, p.Version.String(), q.Name, q.Version.String())
				}
			}
		}
	}
	return nil
}

func satisfies(v version.Version, relation *dependency.VersionRelation) bool {
	if relation == nil {
		return true
	}
	want, err := version.Parse(relation.Number)
	if err != nil {
		return false
	}
	order := version.Compare(v, want)
	switch relation.Operator {
	case "<<":
		return order < 0
	case "<=":
		return order <= 0
	case "=":
		return order == 0
	case ">=":
		return order >= 0
	case ">>":
		return order > 0
	}
	return false
}

// provides follows Debian Policy 7.5: only a versioned Provides can meet a
// versioned dependency.
func provides(p provider, possibility dependency.Possibility) bool {
	if possibility.Version == nil {
		return true
	}
	if p.version == nil || p.version.Operator != "=" {
		return false
	}
	v, err := version.Parse(p.version.Number)
	return err == nil && satisfies(v, possibility.Version)
}

func render(relation dependency.Relation) string {
	return dependency.Dependency{Relations: []dependency.Relation{relation}}.String()
}
