// SPDX-License-Identifier: Apache-2.0

// Command smoke is what the pods of the smoke test run: a server with something to
// say about its pod, and small tools that are run in it.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

const usage = `smoke serve PORT ROOT       answer GET /name with the host's name, and GET of files below ROOT
smoke get URL               print what is there
smoke write FILE TEXT       write a file
smoke find FOLDER TEXT      print how many files below FOLDER contain TEXT
smoke named FOLDER NAME...  print the files below FOLDER that are called so
smoke carry PORT HOST:PORT  pass on what comes to a port
smoke hide FILE SECONDS     give a file a name that begins with a dot, for so long`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "smoke: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	commands := map[string]struct {
		least int // arguments
		run   func(args []string) error
	}{"serve": {2, serve}, "get": {1, get}, "write": {2, write}, "find": {2, find}, "named": {2, named}, "carry": {2, carry}, "hide": {2, hide}}
	if len(args) == 0 || commands[args[0]].run == nil || len(args)-1 < commands[args[0]].least {
		return errors.New("usage:\n" + usage)
	}
	return commands[args[0]].run(args[1:])
}

// requestTime bounds one request.
const requestTime = 20 * time.Second

func serve(args []string) error {
	port, root := args[0], args[1]
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /name", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	mux.Handle("GET /", http.FileServer(http.Dir(root)))
	fmt.Printf("smoke serves on port %s of %s\n", port, name)
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadTimeout: requestTime, WriteTimeout: requestTime}
	return server.ListenAndServe()
}

func write(args []string) error {
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, args[1])
	return errors.Join(err, f.Sync(), f.Close())
}

// carry passes connections on, both ways.
func carry(args []string) error {
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return err
	}
	fmt.Printf("smoke carries to %s\n", args[1])
	for {
		here, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer here.Close()
			there, err := net.DialTimeout("tcp", args[1], requestTime)
			if err != nil {
				fmt.Println(err)
				return
			}
			go func() {
				io.Copy(there, here)
				there.Close()
			}()
			io.Copy(here, there)
		}()
	}
}

// hide takes a file away from whoever looks for it, for some time.
func hide(args []string) error {
	seconds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	hidden := filepath.Join(filepath.Dir(args[0]), "."+filepath.Base(args[0]))
	if err := os.Rename(args[0], hidden); err != nil {
		return err
	}
	fmt.Printf("smoke hides %s\n", args[0])
	time.Sleep(time.Duration(seconds) * time.Second)
	return os.Rename(hidden, args[0])
}

// maxFile bounds what is printed, in bytes.
const maxFile = 1 << 20

func get(args []string) error {
	client := http.Client{Timeout: requestTime}
	response, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	_, err = io.Copy(os.Stdout, io.LimitReader(response.Body, maxFile))
	return err
}

// find counts files: etcd's, which are small enough for memory.
func find(args []string) error {
	found := 0
	err := walk(args[0], func(path string) error {
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(args[1])) {
			found++
		}
		return err
	})
	fmt.Println(found)
	return err
}

func named(args []string) error {
	return walk(args[0], func(path string) error {
		if slices.Contains(args[1:], filepath.Base(path)) {
			fmt.Println(path)
		}
		return nil
	})
}

// walk calls visit for everything below a folder but what the kernel makes, what
// containers see (of which the layers are elsewhere), and what goes away meanwhile.
func walk(root string, visit func(path string) error) error {
	var skipped []string
	for _, name := range []string{"proc", "sys", "dev", "run"} {
		skipped = append(skipped, filepath.Join(root, name))
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, path):
			return filepath.SkipDir
		case d.IsDir():
			return nil
		}
		if err := visit(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
