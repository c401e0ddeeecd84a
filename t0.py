from lib import *
b=B().args('/bin/show'); r=b.run(); print(r.rc,r.err,r.out)
print(leftovers(b.id)); 
