// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/constellation-os/constellation/cli/command"
	clipolicy "github.com/constellation-os/constellation/cli/policy"
)

// DefaultKubeconfig is where the administrator's credentials are written.
const DefaultKubeconfig = "constellation-kubeconfig"

// DefaultPolicy is where the cluster's policy is written.
const DefaultPolicy = clipolicy.DefaultFile

const maxKubeconfig = 1 << 20 // bytes

// Credentials are what a kubeconfig is made of here, in PEM.
type Credentials struct {
	Authority, Certificate, Key []byte
}

// rawKubeconfig is the part of a kubeconfig that is taken from a node. A kubeconfig can
// also name programs that kubectl runs on the administrator's machine, and files there:
// these are left behind.
type rawKubeconfig struct {
	Clusters []struct {
		Cluster struct {
			Authority string `yaml:"certificate-authority-data"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		User struct {
			Certificate string `yaml:"client-certificate-data"`
			Key         string `yaml:"client-key-data"`
		} `yaml:"user"`
	} `yaml:"users"`
}

// ParseKubeconfig takes the credentials out of a kubeconfig of one cluster and one user.
func ParseKubeconfig(data []byte) (*Credentials, error) {
	if len(data) > maxKubeconfig {
		return nil, fmt.Errorf("kubeconfig: %d bytes, at most %d", len(data), maxKubeconfig)
	}
	var raw rawKubeconfig
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return nil, errors.New("kubeconfig: not YAML of that form") // an error would quote it
	}
	if len(raw.Clusters) != 1 || len(raw.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig: %d clusters and %d users, want one of each", len(raw.Clusters), len(raw.Users))
	}
	var c Credentials
	for _, part := range []struct {
		name, text, kind string
		to               *[]byte
	}{
		{"certificate-authority-data", raw.Clusters[0].Cluster.Authority, "CERTIFICATE", &c.Authority},
		{"client-certificate-data", raw.Users[0].User.Certificate, "CERTIFICATE", &c.Certificate},
		{"client-key-data", raw.Users[0].User.Key, "PRIVATE KEY", &c.Key},
	} {
		der, err := base64.StdEncoding.DecodeString(part.text)
		if err != nil || len(der) == 0 {
			return nil, fmt.Errorf("kubeconfig: %s is missing, or not in base64", part.name)
		}
		block, _ := pem.Decode(der)
		if block == nil || !bytes.HasSuffix([]byte(block.Type), []byte(part.kind)) {
			return nil, fmt.Errorf("kubeconfig: %s is not in PEM", part.name)
		}
		*part.to = der
	}
	return &c, nil
}

// kubeconfigFile is a whole one (k8s.io/client-go's clientcmd/api/v1).
type kubeconfigFile struct {
	APIVersion     string         `yaml:"apiVersion"`
	Kind           string         `yaml:"kind"`
	Clusters       []namedCluster `yaml:"clusters"`
	Users          []namedUser    `yaml:"users"`
	Contexts       []namedContext `yaml:"contexts"`
	CurrentContext string         `yaml:"current-context"`
}

type namedCluster struct {
	Name    string            `yaml:"name"`
	Cluster map[string]string `yaml:"cluster"`
}

type namedUser struct {
	Name string            `yaml:"name"`
	User map[string]string `yaml:"user"`
}

type namedContext struct {
	Name    string            `yaml:"name"`
	Context map[string]string `yaml:"context"`
}

// Kubeconfig makes a kubeconfig for a cluster whose API server is reached at HOST:PORT.
func (c *Credentials) Kubeconfig(name, server string) ([]byte, error) {
	encode := base64.StdEncoding.EncodeToString
	user := name + "-admin"
	return yaml.Marshal(kubeconfigFile{
		APIVersion: "v1", Kind: "Config", CurrentContext: name,
		Clusters: []namedCluster{{name, map[string]string{"server": "https://" + server, "certificate-authority-data": encode(c.Authority)}}},
		Users:    []namedUser{{user, map[string]string{"client-certificate-data": encode(c.Certificate), "client-key-data": encode(c.Key)}}},
		Contexts: []namedContext{{name, map[string]string{"cluster": name, "user": user}}},
	})
}

// WriteKubeconfig writes the file with mode 0600, whole or not at all. A file that is
// there is replaced only if it is of the same cluster, which its authority tells.
func (c *Credentials) WriteKubeconfig(path, name, server string) error {
	data, err := c.Kubeconfig(name, server)
	if err != nil {
		return err
	}
	switch old, err := command.ReadFile(path, maxKubeconfig); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !errors.Is(err, command.ErrEmpty):
		return err
	default:
		if there, err := ParseKubeconfig(old); err != nil || !bytes.Equal(there.Authority, c.Authority) {
			return fmt.Errorf("%s exists, is not this cluster's kubeconfig and is not overwritten: remove it, or name another file (--kubeconfig)", path)
		}
	}
	return replace(path, data)
}

// replace writes a file with mode 0600, whole or not at all.
func replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // has mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
