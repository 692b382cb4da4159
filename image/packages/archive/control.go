// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
)

// Limits of one control file. The largest stanza in Debian's archive (a
// Release file with all its checksums) is about 150 KiB.
const (
	maxLine   = 1 << 20
	maxStanza = 8 << 20
)

// A Stanza is one paragraph of a Debian control file (deb822): field names in
// lower case, values with their continuation lines joined by newlines and the
// leading white space of each line removed.
type Stanza map[string]string

// Stanzas yields the paragraphs of a control file in order. It ends with the
// first error: a line that is neither a field nor a continuation, a field that
// occurs twice, or a size beyond the limits.
func Stanzas(r io.Reader) iter.Seq2[Stanza, error] {
	return func(yield func(Stanza, error) bool) {
		p := stanzaParser{fields: Stanza{}}
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, 64<<10), maxLine)
		for number := 1; lines.Scan(); number++ {
			line := lines.Bytes()
			if len(bytes.TrimRight(line, " \t\r")) == 0 {
				if s := p.finish(); len(s) > 0 && !yield(s, nil) {
					return
				}
				continue
			}
			if err := p.line(line); err != nil {
				yield(nil, fmt.Errorf("line %d: %w", number, err))
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
			return
		}
		if s := p.finish(); len(s) > 0 {
			yield(s, nil)
		}
	}
}

type stanzaParser struct {
	fields Stanza
	name   string
	value  strings.Builder
	size   int
}

func (p *stanzaParser) line(line []byte) error {
	p.size += len(line)
	if p.size > maxStanza {
		return fmt.Errorf("stanza is longer than %d bytes", maxStanza)
	}
	if line[0] == ' ' || line[0] == '\t' {
		if p.name == "" {
			return errors.New("continuation line without a field")
		}
		p.value.WriteByte('\n')
		p.value.Write(bytes.TrimSpace(line))
		return nil
	}
	p.store()
	name, value, found := bytes.Cut(line, []byte(":"))
	if !found || !validFieldName(name) {
		return errors.New("neither a field nor a continuation line")
	}
	p.name = strings.ToLower(string(name))
	if _, twice := p.fields[p.name]; twice {
		return fmt.Errorf("field %q occurs twice", name)
	}
	p.value.Write(bytes.TrimSpace(value))
	return nil
}

func (p *stanzaParser) store() {
	if p.name != "" {
		p.fields[p.name] = p.value.String()
	}
	p.name = ""
	p.value.Reset()
}

func (p *stanzaParser) finish() Stanza {
	p.store()
	done := p.fields
	p.fields, p.size = Stanza{}, 0
	return done
}

// validFieldName follows Debian Policy 5.1: printable ASCII without space and
// colon, not beginning with # or -.
func validFieldName(name []byte) bool {
	if len(name) == 0 || name[0] == '#' || name[0] == '-' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
