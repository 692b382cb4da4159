// SPDX-License-Identifier: Apache-2.0

// Build runs one "go build" for the Bazel rule go_module_binaries: it turns main
// packages of a pinned Go module, and a folder that serves its requirements like
// a module proxy, into static programs.
//
//	build -go GO -gomod go.mod -gosum go.sum -proxy DIR [-src PATH=FILE]... [-tags LIST] [-x NAME=VALUE]... (PACKAGE OUTPUT)...
//
// It exists because the go command wants absolute paths, writable caches and an
// environment, none of which a Bazel action has or should inherit. Everything is
// checked against go.sum by the go command itself; nothing is fetched from
// elsewhere, and no cache outlives the call, so the same inputs give the same
// bytes. What it does not guarantee is isolation: that is the sandbox's part.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/constellation-os/constellation/tools/gomodule/gomod"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n", err)
		os.Exit(1)
	}
}

type job struct {
	goCommand, goMod, goSum, proxy, tags string
	sources, xDefs                       []string
	packages, outputs                    []string
}

func run(args []string) error {
	var j job
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	flags.StringVar(&j.goCommand, "go", "", "the go command of a complete toolchain")
	flags.StringVar(&j.goMod, "gomod", "", "go.mod of the module")
	flags.StringVar(&j.goSum, "gosum", "", "go.sum of the module")
	flags.StringVar(&j.proxy, "proxy", "", "folder that holds the required modules like a module proxy")
	flags.StringVar(&j.tags, "tags", "", "build tags, separated by commas")
	flags.Func("src", "path=file of the module's own source, its path below the module's folder; may be repeated", func(s string) error {
		j.sources = append(j.sources, s)
		return nil
	})
	flags.Func("x", "variable=value for the linker; may be repeated", func(s string) error {
		j.xDefs = append(j.xDefs, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 || flags.NArg()%2 != 0 {
		return fmt.Errorf("wanted pairs of package and output, got %q", flags.Args())
	}
	for i := 0; i < flags.NArg(); i += 2 {
		j.packages = append(j.packages, flags.Arg(i))
		j.outputs = append(j.outputs, flags.Arg(i+1))
	}
	scratch, err := os.MkdirTemp("", "gomodule-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	return j.build(scratch)
}

func (j *job) build(scratch string) error {
	module := filepath.Join(scratch, "module")
	binaries := filepath.Join(scratch, "bin")
	for _, dir := range []string{module, binaries} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for name, from := range map[string]string{"go.mod": j.goMod, "go.sum": j.goSum} {
		if err := copyFile(filepath.Join(module, name), from, 0o644); err != nil {
			return err
		}
	}
	if err := j.copySources(module); err != nil {
		return err
	}
	if err := j.goBuild(scratch, module, binaries); err != nil {
		return err
	}
	for i, p := range j.packages {
		if err := copyFile(j.outputs[i], filepath.Join(binaries, commandName(p)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// copySources puts the module's own packages beside its go.mod.
func (j *job) copySources(module string) error {
	for _, source := range j.sources {
		name, file, found := strings.Cut(source, "=")
		if !found || !filepath.IsLocal(name) {
			return fmt.Errorf("-src %q: want PATH=FILE with a path below the module's folder", source)
		}
		to := filepath.Join(module, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(to, file, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) goBuild(scratch, module, binaries string) error {
	// The sandbox shows the toolchain as links; its files refuse to be embedded
	// as such, so the go command is called where it really is.
	goCommand, err := filepath.EvalSymlinks(j.goCommand)
	if err != nil {
		return err
	}
	if goCommand, err = filepath.Abs(goCommand); err != nil {
		return err
	}
	proxy, err := filepath.Abs(j.proxy)
	if err != nil {
		return err
	}
	linker := []string{"-s", "-w", "-buildid="}
	for _, x := range j.xDefs {
		x, err := withVersion(x, j.goMod)
		if err != nil {
			return err
		}
		linker = append(linker, "-X", x)
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=" + j.tags, "-ldflags=" + strings.Join(linker, " "), "-o", binaries + "/"}
	command := exec.Command(goCommand, append(args, j.packages...)...)
	command.Dir = module
	command.Env = []string{
		"CGO_ENABLED=0",
		"GO111MODULE=on",
		"GOAMD64=v1",
		"GOARCH=amd64",
		"GOCACHE=" + filepath.Join(scratch, "cache"),
		"GOENV=off",
		"GOFLAGS=-mod=readonly -modcacherw",
		"GOMODCACHE=" + filepath.Join(scratch, "modules"),
		"GOOS=linux",
		"GOPATH=" + filepath.Join(scratch, "path"),
		"GOPROXY=file://" + proxy,
		"GOSUMDB=off",
		"GOTELEMETRY=off",
		"GOTOOLCHAIN=local",
		"GOWORK=off",
		"HOME=" + scratch,
		"LC_ALL=C",
		"PATH=/nonexistent",
		"TMPDIR=" + scratch,
	}
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(j.packages, " "), err, output)
	}
	return nil
}

// withVersion replaces the value "@MODULE" of a variable by the version of that
// module in go.mod, so that it is written down once.
func withVersion(definition, goMod string) (string, error) {
	variable, module, found := strings.Cut(definition, "=@")
	if !found {
		return definition, nil
	}
	version, err := gomod.Version(goMod, module)
	if err != nil {
		return "", err
	}
	return variable + "=" + version, nil
}

// commandName is what "go build" calls the program of a package: the last
// element of its path that is not a major version.
func commandName(p string) string {
	name := path.Base(p)
	if strings.HasPrefix(name, "v") && len(name) > 1 && strings.Trim(name[1:], "0123456789") == "" {
		name = path.Base(path.Dir(p))
	}
	return name
}

func copyFile(to, from string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
