// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func rotate(r *Keyring) error {
	_, err := r.Rotate()
	return err
}

func created(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "master.json")
	if err := Generate().Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpdate(t *testing.T) {
	path := created(t)
	r, err := Update(path, rotate)
	if err != nil {
		t.Fatal(err)
	}
	read, err := Load(path)
	if err != nil || !read.secrets[2].Equal(r.secrets[2]) {
		t.Errorf("what is in the file is not what was returned: %v", err)
	}
	before, _ := os.ReadFile(path)
	refused := errors.New("no")
	if _, err := Update(path, func(r *Keyring) error { return errors.Join(rotate(r), refused) }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("a change that was refused is in the file")
	}
	if _, err := Update(path+"x", rotate); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestUpdatesAtOnce: every version that somebody was told of is in the file.
func TestUpdatesAtOnce(t *testing.T) {
	path := created(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []Secret
	for range 20 {
		wg.Go(func() {
			r, err := Update(path, rotate)
			if err != nil {
				wantClass(t, err, ClassThrottled)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, r.secrets[r.newest])
		})
	}
	wg.Wait()
	read, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(made) == 0 || len(made) != len(read.secrets)-1 {
		t.Errorf("%d versions were made, %d are in the file", len(made), len(read.secrets)-1)
	}
}

func TestUpdateUnderWay(t *testing.T) {
	path := created(t)
	_, err := Update(path, func(*Keyring) error {
		_, err := Update(path, rotate)
		return err
	})
	wantClass(t, err, ClassThrottled)
	if err == nil || !strings.Contains(err.Error(), "another command is changing it") {
		t.Errorf("got %v", err)
	}
}

// TestUpdateOfALink: the link stays, and what it names is not left behind.
func TestUpdateOfALink(t *testing.T) {
	path := created(t)
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Update(link, rotate); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != path {
		t.Errorf("the link became something else: %v", err)
	}
	if read, err := Load(path); err != nil || read.newest != 2 {
		t.Errorf("the file was not changed: %v", err)
	}
}

// TestLastVersion: a file is never replaced by one that cannot be read.
func TestLastVersion(t *testing.T) {
	r := Generate()
	r.newest = math.MaxUint32
	r.secrets[r.newest] = RandomSecret(MasterSecretSize)
	path := filepath.Join(t.TempDir(), "master.json")
	if err := r.Create(path); err != nil {
		t.Fatal(err)
	}
	_, err := Update(path, rotate)
	wantClass(t, err, ClassInvalid)
	if read, err := Load(path); err != nil || read.newest != math.MaxUint32 {
		t.Errorf("the file was changed: %v", err)
	}
}
