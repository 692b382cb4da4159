// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Declare adds what a declaration says, one entry a line:
//
//	directory PATH MODE [UID GID]
//	link      PATH TARGET
//	empty     PATH MODE
//	collect   PATH PATTERN      a file made of all files that match, in path order; the sources are removed
//	mode      PATH MODE         another mode for a file that is there
//	remove    PATH              a file or link that a package's pattern brought, or an empty directory
//
// # begins a comment.
func (t Tree) Declare(text string) error {
	for number, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if err := t.declare(fields); err != nil {
			return fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	return nil
}

func (t Tree) declare(fields []string) error {
	kind, arguments := fields[0], fields[1:]
	switch {
	case kind == "directory" && (len(arguments) == 2 || len(arguments) == 4):
		node := &Node{Type: tar.TypeDir, Origin: ownRule}
		var err error
		if node.Mode, err = strconv.ParseInt(arguments[1], 8, 16); err != nil {
			return fmt.Errorf("mode %q: %w", arguments[1], err)
		}
		if len(arguments) == 4 {
			if node.UID, err = strconv.Atoi(arguments[2]); err != nil {
				return fmt.Errorf("owner %q: %w", arguments[2], err)
			}
			if node.GID, err = strconv.Atoi(arguments[3]); err != nil {
				return fmt.Errorf("group %q: %w", arguments[3], err)
			}
		}
		return t.Add(arguments[0], node)
	case kind == "link" && len(arguments) == 2:
		return t.Add(arguments[0], &Node{Type: tar.TypeSymlink, Mode: 0o777, Target: arguments[1], Origin: ownRule})
	case kind == "empty" && len(arguments) == 2:
		mode, err := strconv.ParseInt(arguments[1], 8, 16)
		if err != nil {
			return fmt.Errorf("mode %q: %w", arguments[1], err)
		}
		return t.Add(arguments[0], &Node{Type: tar.TypeReg, Mode: mode, Origin: ownRule})
	case kind == "collect" && len(arguments) == 2:
		return t.collect(arguments[0], arguments[1])
	case kind == "mode" && len(arguments) == 2:
		mode, err := strconv.ParseInt(arguments[1], 8, 16)
		if err != nil || t[arguments[0]] == nil {
			return fmt.Errorf("mode %s %s: no such file or no such mode", arguments[0], arguments[1])
		}
		t[arguments[0]].Mode = mode
		return nil
	case kind == "remove" && len(arguments) == 1:
		if t[arguments[0]] == nil {
			return fmt.Errorf("remove %s: no such file", arguments[0])
		}
		delete(t, arguments[0])
		return nil
	}
	return fmt.Errorf("unknown entry %q", strings.Join(fields, " "))
}

func (t Tree) collect(file, pattern string) error {
	var all bytes.Buffer
	origin := ""
	for _, p := range t.Paths() {
		if !matchPath(pattern, p) || t[p].Type != tar.TypeReg {
			continue
		}
		all.Write(t[p].Content)
		origin = t[p].Origin
		delete(t, p)
	}
	if all.Len() == 0 {
		return fmt.Errorf("collect %s: nothing matches %s", file, pattern)
	}
	// Directories that are now empty go too.
	for dir := path.Dir(pattern); dir != "."; dir = path.Dir(dir) {
		if t.hasChildren(dir) {
			break
		}
		delete(t, dir)
	}
	return t.Add(file, &Node{Type: tar.TypeReg, Mode: 0o644, Content: all.Bytes(), Origin: origin})
}

func (t Tree) hasChildren(dir string) bool {
	for p := range t {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
