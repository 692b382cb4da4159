// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is something wrong with a file.
type Problem struct {
	// Line in the file, from 1; 0 if it is not about one.
	Line int `json:"line,omitempty"`
	// Path of the field: kubernetes.sources[0].
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
}

func (p Problem) String() string {
	text := p.Text
	if p.Path != "" {
		text = p.Path + ": " + text
	}
	if p.Line > 0 {
		text = fmt.Sprintf("line %d: %s", p.Line, text)
	}
	return text
}

// Error is why a file is no configuration.
type Error struct {
	Problems []Problem
}

// Error implements error: all that is wrong, a line each.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a configuration whose paths are relative to folder. Its errors are
// *Error.
func Parse(data []byte, folder string) (*Config, error) {
	if len(data) > MaxSize {
		return nil, &Error{[]Problem{{Text: fmt.Sprintf("%d bytes, at most %d", len(data), MaxSize)}}}
	}
	root, problem := parseNode(data)
	if problem != nil {
		return nil, &Error{[]Problem{*problem}}
	}
	c := &Config{folder: folder}
	d := decoder{lines: lines{}}
	d.value("", root, reflect.ValueOf(c).Elem())
	if len(d.problems) == 0 && c.Format != Format {
		d.fail("format", root.Line, "%.80q: this program reads %q", c.Format, Format)
	}
	if len(d.problems) == 0 {
		for _, p := range c.check() {
			p.Line = d.lines.line(p.Path)
			d.problems = append(d.problems, p)
		}
	}
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Error{d.problems}
	}
	c.lines = d.lines
	return c, nil
}

// parseNode reads the one document of a file.
func parseNode(data []byte) (*yaml.Node, *Problem) {
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var document yaml.Node
	switch err := dec.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, &Problem{Text: "the file is empty"}
	case err != nil:
		return nil, yamlProblem(err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &Problem{Line: more.Line, Text: "a second document begins: want one"}
	}
	return document.Content[0], nil
}

// yamlProblem takes the line out of an error of the YAML parser.
func yamlProblem(err error) *Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	p := &Problem{Text: "not YAML: " + text}
	var line int
	if _, scanErr := fmt.Sscanf(text, "line %d:", &line); scanErr == nil {
		p.Line, p.Text = line, "not YAML:"+text[strings.Index(text, ":")+1:]
	}
	return p
}

// decoder puts a tree of nodes into a value, collecting what does not fit.
type decoder struct {
	problems []Problem
	lines    lines
}

// lines are those of the fields that are there.
type lines map[string]int

func (d *decoder) fail(path string, line int, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: line, Path: path, Text: fmt.Sprintf(format, args...)})
}

// line is that of a field, or of the closest that has it inside.
func (l lines) line(path string) int {
	for {
		if line, ok := l[path]; ok {
			return line
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

func (d *decoder) value(path string, n *yaml.Node, to reflect.Value) {
	if path != "" {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(path, n.Line, "anchors and aliases are not read here: write the value out")
		return
	}
	switch to.Kind() {
	case reflect.Struct:
		d.structure(path, n, to)
	case reflect.Slice:
		d.list(path, n, to)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" && n.Tag != "!!timestamp" {
			d.fail(path, n.Line, "want text, not %s", kindOf(n))
			return
		}
		to.SetString(n.Value)
	default:
		panic("config: a field of type " + to.Type().String())
	}
}

func (d *decoder) structure(path string, n *yaml.Node, to reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(path, n.Line, "want fields, not %s", kindOf(n))
		return
	}
	fields, optional := fieldsOf(to.Type())
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		inner := join(path, key.Value)
		index, known := fields[key.Value]
		switch {
		case !known:
			d.fail(join(path, printableKey(key.Value)), key.Line, "not a field%s", suggest(key.Value, names(fields)))
		case seen[key.Value]:
			d.fail(inner, key.Line, "there twice")
		default:
			seen[key.Value] = true
			d.value(inner, value, to.Field(index))
		}
	}
	for _, name := range names(fields) {
		if !seen[name] && !optional[name] {
			d.fail(join(path, name), n.Line, "missing")
		}
	}
}

func (d *decoder) list(path string, n *yaml.Node, to reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(path, n.Line, "want a list, not %s", kindOf(n))
		return
	}
	for i, item := range n.Content {
		element := reflect.New(to.Type().Elem()).Elem()
		d.value(fmt.Sprintf("%s[%d]", path, i), item, element)
		to.Set(reflect.Append(to, element))
	}
}

// fieldsOf are a struct's fields by name, and which of them may be left out.
func fieldsOf(t reflect.Type) (fields map[string]int, optional map[string]bool) {
	fields, optional = map[string]int{}, map[string]bool{}
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" {
			fields[name], optional[name] = i, options == "omitempty"
		}
	}
	return fields, optional
}

func names(fields map[string]int) (out []string) {
	for name := range fields {
		out = append(out, name)
	}
	slices.SortFunc(out, func(a, b string) int { return fields[a] - fields[b] })
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "fields"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!str":
		return "text"
	case n.Tag == "!!bool":
		return "true or false: quote it if text is meant"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number: quote it if text is meant"
	}
	return "something else"
}
