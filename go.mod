module github.com/constellation-os/constellation

go 1.26.0
