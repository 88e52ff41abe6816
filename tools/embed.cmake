# SPDX-License-Identifier: MIT
# cmake -DFILES=a.csv;b.csv -DOUT=data.c -P embed.cmake: each file as td_data_<name>, a zero behind
# it, and td_data_<name>_bytes without that zero.
set(text "#include \"app/data.h\"\n")
foreach(path ${FILES})
  get_filename_component(name ${path} NAME_WE)
  file(READ ${path} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  string(APPEND text "const unsigned char td_data_${name}[] = {\n${hex}0};\nconst size_t td_data_${name}_bytes = ${bytes};\n")
endforeach()
file(WRITE ${OUT} "${text}")
