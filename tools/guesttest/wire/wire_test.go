// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	var port bytes.Buffer
	w := NewWriter(&port)
	long := bytes.Repeat([]byte("long"), MaxFrame/2)
	if _, err := w.Stream(Stdout).Write(long); err != nil {
		t.Fatal(err)
	}
	if err := w.Frame(Started, nil); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for len(got) < len(long) {
		kind, content, err := Read(&port)
		if err != nil || kind != Stdout {
			t.Fatalf("read type %d, %v", kind, err)
		}
		got = append(got, content...)
	}
	if !bytes.Equal(got, long) {
		t.Error("the content differs")
	}
	if kind, content, err := Read(&port); kind != Started || len(content) != 0 || err != nil {
		t.Errorf("an empty frame is type %d, %q, %v", kind, content, err)
	}
	if _, _, err := Read(&port); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestReadRefusesLongFrames(t *testing.T) {
	if _, _, err := Read(strings.NewReader("\x02\xff\xff\xff\xff")); err == nil || !strings.Contains(err.Error(), "a frame of 4294967295 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestSendFiles(t *testing.T) {
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "sub", "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	var port bytes.Buffer
	if err := NewWriter(&port).SendFiles(folder); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind    Type
		content string
	}{{File, "sub/file"}, {Data, "content"}} {
		if kind, content, err := Read(&port); kind != want.kind || string(content) != want.content || err != nil {
			t.Errorf("got type %d, %q, %v, want %v", kind, content, err, want)
		}
	}
}
