# The front door; CMake does the work.
BUILD  ?= build
JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PREFIX ?= /usr/local
CMAKE_FLAGS ?=

.PHONY: all
all: $(BUILD)/CMakeCache.txt
	@cmake --build $(BUILD) --parallel $(JOBS)

$(BUILD)/CMakeCache.txt: CMakeLists.txt
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS)

.PHONY: help
help:
	@echo "make           build/tandem, optimised"
	@echo "make demo      install what is missing, build, answer a prompt with a tiny model"
	@echo "make install   to PREFIX=$(PREFIX), with the man page; DESTDIR is understood"

.PHONY: demo
demo:
	@scripts/setup.sh
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target tandem
	@scripts/demo.sh $(BUILD)/tandem $(BUILD)/demo

.PHONY: install
install: all
	@cmake --install $(BUILD) --prefix $(PREFIX)
