// SPDX-License-Identifier: Apache-2.0

// Package strictjson decodes JSON of which every reader must make the same.
//
// encoding/json is lenient where a document that decides about trust must not be: of
// a key that is there twice it takes the last, it takes "Version" for "version", and
// "04" or "+4" for the integer key 4, so that a person, another program and this one
// can read three different documents. Decode accepts what has one reading only:
//
//   - one value, with nothing but white space behind it, in valid UTF-8;
//   - values at most MaxDepth deep;
//   - no key twice in an object;
//   - in place of a struct only the struct's keys, spelled as its tags spell them;
//   - in place of a map with integer keys only integers as Go prints them.
//
// What a type decodes by a method of its own (json.RawMessage among them) is held to
// the first three here; decode it strictly in turn.
//
// Its errors can be shown to people: they hold at most MaxMessage bytes, of printable
// ASCII, whatever the document holds.
//
// Not guaranteed: that a key is there at all, or that its value is not null. The
// size is not limited either: callers limit it first.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/constellation-os/constellation/measurements/printable"
)

// MaxDepth is how deep values may lie inside each other.
const MaxDepth = 16

// MaxMessage is the most bytes of an error's text.
const MaxMessage = 300

// Errors of Decode. Others, as a value of the wrong type, are encoding/json's.
var (
	ErrTruncated = errors.New("the file ends early")
	ErrTrailing  = errors.New("something follows the JSON value")
	ErrUTF8      = errors.New("the text is not valid UTF-8")
	ErrDepth     = fmt.Errorf("values more than %d deep", MaxDepth)
	ErrTwice     = errors.New("twice in one object")
	ErrUnknown   = errors.New("unknown field")
	ErrSpelling  = errors.New("spelled differently")
)

// Decode reads data into the value that into points to.
func Decode(data []byte, into any) error {
	err := decode(data, into)
	if err != nil && !printable.Is(err.Error(), MaxMessage) {
		return &quoting{err}
	}
	return err
}

// quoting is an error whose text repeats what the document says, as those of
// encoding/json do with numbers and those of package time with dates.
type quoting struct{ err error }

func (q *quoting) Error() string { return printable.Text(q.err.Error(), MaxMessage) }
func (q *quoting) Unwrap() error { return q.err }

func decode(data []byte, into any) error {
	if !utf8.Valid(data) {
		return ErrUTF8
	}
	c := checker{json.NewDecoder(bytes.NewReader(data))}
	if err := c.value(reflect.TypeOf(into).Elem(), 0); err != nil {
		return err
	}
	if _, err := c.dec.Token(); !errors.Is(err, io.EOF) {
		return ErrTrailing
	}
	return json.Unmarshal(data, into)
}

// checker walks a document beside the type that it is to be decoded into.
type checker struct{ dec *json.Decoder }

func (c checker) token() (json.Token, error) {
	token, err := c.dec.Token()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, ErrTruncated
	}
	return token, err
}

// value checks the next value. t is nil where the type is not known.
func (c checker) value(t reflect.Type, depth int) error {
	token, err := c.token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == MaxDepth {
		return ErrDepth
	}
	t = visible(t)
	if open == '[' {
		for c.dec.More() {
			if err := c.value(element(t), depth+1); err != nil {
				return err
			}
		}
	} else if err := c.object(t, depth); err != nil {
		return err
	}
	_, err = c.token() // the closing one
	return err
}

func (c checker) object(t reflect.Type, depth int) error {
	var fields map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	}
	seen := map[string]bool{}
	for c.dec.More() {
		token, err := c.token()
		if err != nil {
			return err
		}
		key := token.(string) // the decoder has refused all else
		if seen[key] {
			return fmt.Errorf("%.80q: %w", key, ErrTwice)
		}
		seen[key] = true
		of := element(t)
		switch {
		case fields != nil:
			if of = fields[key]; of == nil {
				return unknown(key, fields)
			}
		case t != nil && t.Kind() == reflect.Map && t.Key().Kind() >= reflect.Int && t.Key().Kind() <= reflect.Int64:
			if n, err := strconv.ParseInt(key, 10, 64); err != nil || strconv.FormatInt(n, 10) != key {
				return fmt.Errorf("key %.80q: %w: want an integer", key, ErrSpelling)
			}
		}
		if err := c.value(of, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func unknown(key string, fields map[string]reflect.Type) error {
	for name := range fields {
		if strings.EqualFold(name, key) {
			return fmt.Errorf("field %.80q: %w: want %q", key, ErrSpelling, name)
		}
	}
	return fmt.Errorf("%w %.80q", ErrUnknown, key)
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// visible is the type behind pointers, nil if only the type itself knows how it is
// decoded.
func visible(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() == reflect.Interface || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t
}

// element is the type of what a list or map holds.
func element(t reflect.Type) reflect.Type {
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map) {
		return t.Elem()
	}
	return nil
}

// fieldsOf are the types of a struct's fields by their names in JSON.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported() || name == "-" || (f.Anonymous && name == ""):
			continue
		case name == "":
			name = f.Name
		}
		out[name] = f.Type
	}
	return out
}
