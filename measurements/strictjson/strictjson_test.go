// SPDX-License-Identifier: Apache-2.0

package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/strictjson"
)

// document has every kind of type that the formats of this repository have.
type document struct {
	Version int                `json:"version"`
	PCRs    map[int][]document `json:"pcrs,omitempty"`
	Names   map[string]string  `json:"names,omitempty"`
	Next    *document          `json:"next,omitempty"`
	Raw     json.RawMessage    `json:"raw,omitempty"`
	Until   time.Time          `json:"until,omitzero"`
	Data    []byte             `json:"data,omitempty"`
	Plain   string
	hidden  int
	Skipped int `json:"-"`
	embedded
}

type embedded struct {
	Inner int `json:"inner,omitempty"`
}

func TestDecode(t *testing.T) {
	text := ` {"version": 1, "pcrs": {"4": [{"version": 2, "Plain": ""}], "-1": []}, "names": {"a": "x", "A": "y"},
		"next": {"version": 3, "Plain": "p"}, "raw": {"anything": [1, {"Version": 1, "version": 2}]}, "until": "2030-01-01T00:00:00Z",
		"data": "AAE=", "Plain": "ä", "inner": 5} `
	var got document
	if err := strictjson.Decode([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := document{
		Version: 1, PCRs: map[int][]document{4: {{Version: 2}}, -1: {}}, Names: map[string]string{"a": "x", "A": "y"},
		Next: &document{Version: 3, Plain: "p"}, Raw: json.RawMessage(`{"anything": [1, {"Version": 1, "version": 2}]}`),
		Until: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Data: []byte{0, 1}, Plain: "ä", hidden: 0, embedded: embedded{5},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(document{}, embedded{})); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"next":`, n) + "{}" + strings.Repeat("}", n) }
	if err := strictjson.Decode([]byte(nested(strictjson.MaxDepth-1)), new(document)); err != nil {
		t.Fatalf("at the limit of depth: %v", err)
	}
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"nothing":                     {"", strictjson.ErrTruncated},
		"cut":                         {`{"version":1,"next":{`, strictjson.ErrTruncated},
		"a second value":              {`{"version":1}{}`, strictjson.ErrTrailing},
		"text behind":                 {`{"version":1} x`, strictjson.ErrTrailing},
		"a bracket too many":          {`{"version":1}]`, strictjson.ErrTrailing},
		"not UTF-8":                   {"{\"Plain\":\"\xff\"}", strictjson.ErrUTF8},
		"too deep":                    {nested(strictjson.MaxDepth), strictjson.ErrDepth},
		"much too deep":               {strings.Repeat("[", 1<<20), strictjson.ErrDepth},
		"too deep where it is opaque": {`{"raw":` + strings.Repeat("[", 1<<20), strictjson.ErrDepth},
		"a field twice":               {`{"version":1,"version":1}`, strictjson.ErrTwice},
		"a field twice, escaped":      {`{"version":1,"\u0076ersion":1}`, strictjson.ErrTwice},
		"a field twice, deeper":       {`{"pcrs":{"4":[{"version":1,"version":1}]}}`, strictjson.ErrTwice},
		"a key of a map twice":        {`{"names":{"a":"x","a":"y"}}`, strictjson.ErrTwice},
		"an integer key twice":        {`{"pcrs":{"4":[],"4":[]}}`, strictjson.ErrTwice},
		"twice where it is opaque":    {`{"raw":[{"a":1,"a":2}]}`, strictjson.ErrTwice},
		"another case":                {`{"Version":1}`, strictjson.ErrSpelling},
		"another case, deeper":        {`{"next":{"VERSION":1}}`, strictjson.ErrSpelling},
		"another case of no tag":      {`{"plain":""}`, strictjson.ErrSpelling},
		"a letter that folds":         {`{"ver\u017fion":1}`, strictjson.ErrSpelling},
		"a leading zero":              {`{"pcrs":{"04":[]}}`, strictjson.ErrSpelling},
		"a plus":                      {`{"pcrs":{"+11":[]}}`, strictjson.ErrSpelling},
		"minus zero":                  {`{"pcrs":{"-0":[]}}`, strictjson.ErrSpelling},
		"hexadecimal":                 {`{"pcrs":{"0x4":[]}}`, strictjson.ErrSpelling},
		"a word for an integer":       {`{"pcrs":{"four":[]}}`, strictjson.ErrSpelling},
		"unknown":                     {`{"x":1}`, strictjson.ErrUnknown},
		"unexported":                  {`{"hidden":1}`, strictjson.ErrUnknown},
		"not part of the format":      {`{"Skipped":1}`, strictjson.ErrUnknown},
		"the embedded type's name":    {`{"embedded":{}}`, strictjson.ErrUnknown},
		"empty":                       {`{"":1}`, strictjson.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			if err := strictjson.Decode([]byte(test.text), new(document)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	var syntax *json.SyntaxError
	if err := strictjson.Decode([]byte(`{"version":01}`), new(document)); !errors.As(err, &syntax) {
		t.Errorf("got %v, want a syntax error", err)
	}
	var mistyped *json.UnmarshalTypeError
	if err := strictjson.Decode([]byte(`{"version":"1"}`), new(document)); !errors.As(err, &mistyped) {
		t.Errorf("got %v, want a type error", err)
	}
}

// shouting is a type whose own method repeats what it is given.
type shouting struct{}

func (*shouting) UnmarshalText(text []byte) error { return fmt.Errorf("not %s: %w", text, errShouted) }

var errShouted = errors.New("shouted")

// A message about what a document holds cannot write to a terminal, and is short.
func TestErrorsArePrintable(t *testing.T) {
	long := strings.Repeat("9", 1<<16)
	for name, tc := range map[string]struct {
		text string
		into any
		want error // in the chain
	}{
		"an unknown field":     {`{"\u001b[2J":1}`, new(document), strictjson.ErrUnknown},
		"no integer":           {`{"pcrs":{"\u001b[2J":1}}`, new(document), strictjson.ErrSpelling},
		"twice":                {`{"names":{"\u001b[2J":"","\u001b[2J":""}}`, new(document), strictjson.ErrTwice},
		"a long field":         {`{"` + long + `":1}`, new(document), strictjson.ErrUnknown},
		"a long number":        {`{"version":` + long + `}`, new(document), nil},
		"an opaque one":        {`{"raw":` + long + `}`, new(document), nil},
		"a long date":          {`{"until":"` + long + `"}`, new(document), nil},
		"a type's own message": {`"` + long + `\u001b[2J"`, new(shouting), errShouted},
		"a sequence in it":     {`"\u001b[2J"`, new(shouting), errShouted},
	} {
		t.Run(name, func(t *testing.T) {
			err := strictjson.Decode([]byte(tc.text), tc.into)
			if err == nil || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > strictjson.MaxMessage {
				t.Errorf("%.400q", err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%.400q is not %v", err, tc.want)
			}
		})
	}
}

// keys counts the members of all objects in the text, and says whether each is a
// field of document, or an integer written in the one way.
func keys(t *testing.T, data []byte) (n int, known bool) {
	var walk func(v any)
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("accepted, but no JSON: %v", err)
	}
	known = true
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, inner := range v {
				n++
				i, err := strconv.Atoi(key)
				known = known && (err == nil && strconv.Itoa(i) == key || strings.Contains(" version pcrs next Plain inner ", " "+key+" "))
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(v)
	return n, known
}

// What is accepted has as many members by this package's reading as it has colons
// outside of strings, and no member but the type's.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"pcrs":{"4":[{"version":2}],"-1":[]},"next":{"Plain":"x","inner":1}}`,
		`{"version":1,"version":1}`, `{"Version":1}`, `{"pcrs":{"04":[]}}`, `{"pcrs":{"4":[],"+4":[]}}`, `{} {}`, `[[[[`, `null`,
	} {
		f.Add([]byte(seed))
	}
	type fuzzed struct {
		Version int              `json:"version"`
		PCRs    map[int][]fuzzed `json:"pcrs"`
		Next    *fuzzed          `json:"next"`
		Plain   string
		embedded
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got fuzzed
		if err := strictjson.Decode(data, &got); err != nil {
			return
		}
		n, known := keys(t, data)
		if colons := bytes.Count(stripStrings(data), []byte(":")); n != colons || !known {
			t.Fatalf("%d members of %d, all known: %v", n, colons, known)
		}
		var lenient fuzzed
		if err := json.Unmarshal(data, &lenient); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lenient, got, cmp.AllowUnexported(fuzzed{}, embedded{})); diff != "" {
			t.Fatal("(-encoding/json +strictjson):", diff)
		}
	})
}

// stripStrings is valid JSON without the content of its strings.
func stripStrings(data []byte) []byte {
	var out []byte
	inside := false
	for i := 0; i < len(data); i++ {
		switch {
		case inside && data[i] == '\\':
			i++
		case data[i] == '"':
			inside = !inside
		case !inside:
			out = append(out, data[i])
		}
	}
	return out
}
