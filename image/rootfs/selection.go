// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Selection says which files of which packages enter the root. What no pattern names stays out.
//
// Its text form has sections of one package each:
//
//	# a comment
//	[mount]
//	usr/bin/mount mode=0755
//	usr/share/example/**
//
// A pattern is a path below the root whose elements may use the wildcards of path.Match; a final ** stands for
// everything below. mode= replaces the package's mode. Each pattern must match at least one file: when an update of a
// package moves a file, the build fails and does not lose it silently.
type Selection struct {
	patterns map[string][]*pattern
}

type pattern struct {
	text    string
	mode    int64
	hasMode bool
	used    bool
}

// ParseSelection reads the text form. Several texts add up.
func ParseSelection(texts ...string) (*Selection, error) {
	s := &Selection{patterns: map[string][]*pattern{}}
	for _, text := range texts {
		section := ""
		for number, line := range strings.Split(text, "\n") {
			line, _, _ = strings.Cut(line, "#")
			fields := strings.Fields(line)
			if len(fields) == 0 {
				continue
			}
			if name, ok := strings.CutPrefix(fields[0], "["); ok {
				section = strings.TrimSuffix(name, "]")
				if s.patterns[section] == nil {
					s.patterns[section] = []*pattern{}
				}
				continue
			}
			if section == "" {
				return nil, fmt.Errorf("line %d: pattern %q before the first [package]", number+1, fields[0])
			}
			p, err := parsePattern(fields)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", number+1, err)
			}
			s.patterns[section] = append(s.patterns[section], p)
		}
	}
	return s, nil
}

func parsePattern(fields []string) (*pattern, error) {
	p := &pattern{text: fields[0]}
	if _, err := path.Match(p.text, ""); err != nil || path.IsAbs(p.text) {
		return nil, fmt.Errorf("pattern %q is broken or not below the root", p.text)
	}
	for _, option := range fields[1:] {
		text, ok := strings.CutPrefix(option, "mode=")
		mode, err := strconv.ParseInt(text, 8, 16)
		if !ok || err != nil {
			return nil, fmt.Errorf("unknown option %q", option)
		}
		p.mode, p.hasMode = mode, true
	}
	return p, nil
}

// match returns the first pattern of the package that names the file.
func (s *Selection) match(pkg, file string) *pattern {
	for _, p := range s.patterns[pkg] {
		if matchPath(p.text, file) {
			return p
		}
	}
	return nil
}

func matchPath(pattern, file string) bool {
	if below, ok := strings.CutSuffix(pattern, "/**"); ok {
		depth := strings.Count(below, "/") + 1
		elements := strings.Split(file, "/")
		if len(elements) <= depth {
			return false
		}
		pattern, file = below, strings.Join(elements[:depth], "/")
	}
	matched, err := path.Match(pattern, file)
	return err == nil && matched
}

// unused describes the patterns that named nothing.
func (s *Selection) unused() []string {
	var unused []string
	for pkg, patterns := range s.patterns {
		for _, p := range patterns {
			if !p.used {
				unused = append(unused, fmt.Sprintf("[%s] %s", pkg, p.text))
			}
		}
	}
	return unused
}
